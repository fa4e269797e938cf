//! As much HTTP/1.1 as the protocol needs, over one stream.
//!
//! Owns requests with a body of known length, and answers likewise: nothing is chunked, redirected or compressed. All
//! that comes has a limit, and the time until it has come, because the other end may be anybody. What is left over of an
//! answer is the next one's beginning.
//!
//! Specification: RFC 9112; `httparse` reads the heads.

use std::io;
use std::time::Duration;

use super::stream::{PATIENCE, Stream};

const HEAD_MOST: usize = 16 << 10;
const BODY_MOST: usize = 4 << 20;
const HEADERS_MOST: usize = 48;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    /// The stream.
    #[error("{0}")]
    Stream(#[from] io::Error),
    /// It ended.
    #[error("the connection ended within an answer")]
    End,
    /// Not HTTP, or more of it than there may be.
    #[error("the answer is malformed: {0}")]
    Malformed(String),
    /// Too large.
    #[error("the answer's {what} has more than {most} bytes")]
    Size {
        /// Which part.
        what: &'static str,
        /// What is allowed.
        most: usize,
    },
    /// It cannot be put into a request.
    #[error("a header or path has a character that HTTP does not allow")]
    Character,
}

/// An answer.
#[derive(Debug, PartialEq, Eq)]
pub struct Reply {
    /// Its status.
    pub status: u16,
    /// Its body.
    pub body: Vec<u8>,
    headers: Vec<(String, String)>,
}

impl Reply {
    /// The first header of this name.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.all(name).next()
    }

    /// The value of a cookie that it sets.
    #[must_use]
    pub fn cookie(&self, name: &str) -> Option<String> {
        let mut pairs = self.all("set-cookie").filter_map(|value| value.split(';').next()?.trim().split_once('='));
        pairs.find(|(cookie, _)| *cookie == name).map(|(_, value)| value.to_owned())
    }

    fn all<'a>(&'a self, name: &str) -> impl Iterator<Item = &'a str> {
        self.headers.iter().filter(move |(it, _)| it.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }
}

/// HTTP over a stream that stays open.
#[derive(Debug)]
pub struct Http<S> {
    stream: S,
    host: String,
    patience: Duration,
    received: Vec<u8>,
}

impl<S: Stream> Http<S> {
    /// With whoever is at the other end, under this name.
    pub fn new(stream: S, host: &str) -> Self {
        Self { stream, host: host.into(), patience: PATIENCE, received: Vec::new() }
    }

    /// With another limit than [`PATIENCE`] for a request and its answer.
    #[must_use]
    pub fn with_patience(self, patience: Duration) -> Self {
        Self { patience, ..self }
    }

    /// Asks, and waits for the answer, as long as there is patience for both.
    pub fn request(
        &mut self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: Option<&[u8]>,
    ) -> Result<Reply, HttpError> {
        let is_plain = |text: &str| text.bytes().all(|byte| byte == b' ' || byte.is_ascii_graphic());
        if !path.bytes().all(|byte| byte.is_ascii_graphic())
            || !is_plain(&self.host)
            || !headers.iter().all(|(name, value)| is_plain(name) && is_plain(value))
        {
            return Err(HttpError::Character);
        }
        let mut head = format!("{method} {path} HTTP/1.1\r\nHost: {}\r\nAccept: application/json\r\n", self.host);
        for (name, value) in headers {
            head += &format!("{name}: {value}\r\n");
        }
        if let Some(body) = body {
            head += &format!("Content-Type: application/json\r\nContent-Length: {}\r\n", body.len());
        }
        head += "\r\n";
        // In one piece, where that is possible: a device may make a message of each.
        let message = [head.as_bytes(), body.unwrap_or_default()].concat();
        self.stream.ask_within(self.patience);
        self.stream.write_all(&message)?;
        self.stream.flush()?;
        self.reply()
    }

    fn reply(&mut self) -> Result<Reply, HttpError> {
        let (mut reply, head, length) = loop {
            if let Some(found) = parse(&self.received)? {
                break found;
            }
            if self.received.len() > HEAD_MOST {
                return Err(HttpError::Size { what: "head", most: HEAD_MOST });
            }
            self.receive()?;
        };
        if length > BODY_MOST {
            return Err(HttpError::Size { what: "body", most: BODY_MOST });
        }
        while self.received.len() < head + length {
            self.receive()?;
        }
        reply.body = self.received.get(head..head + length).unwrap_or_default().to_vec();
        self.received.drain(..head + length);
        Ok(reply)
    }

    fn receive(&mut self) -> Result<(), HttpError> {
        let mut piece = [0; 4096];
        let count = loop {
            match self.stream.read(&mut piece) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                other => break other?,
            }
        };
        if count == 0 {
            return Err(HttpError::End);
        }
        self.received.extend(piece.iter().take(count));
        Ok(())
    }
}

/// An answer without its body, the length of its head, and that of its body; nothing if the head is not complete.
fn parse(received: &[u8]) -> Result<Option<(Reply, usize, usize)>, HttpError> {
    let malformed = |what: String| HttpError::Malformed(what);
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MOST];
    let mut response = httparse::Response::new(&mut headers);
    let head = match response.parse(received).map_err(|error| malformed(error.to_string()))? {
        httparse::Status::Partial => return Ok(None),
        httparse::Status::Complete(head) => head,
    };
    if head > HEAD_MOST {
        return Err(HttpError::Size { what: "head", most: HEAD_MOST });
    }
    let status = response.code.unwrap_or_default();
    let text = |value: &[u8]| String::from_utf8_lossy(value).into_owned();
    let headers: Vec<_> = response.headers.iter().map(|it| (it.name.to_owned(), text(it.value))).collect();
    let reply = Reply { status, body: Vec::new(), headers };
    if status < 200 || reply.header("transfer-encoding").is_some() || reply.header("content-encoding").is_some() {
        return Err(malformed(format!("status {status}, or a body in another encoding")));
    }
    let length = {
        let mut lengths = reply.all("content-length");
        let length = lengths.next().ok_or_else(|| malformed("it does not say how long it is".into()))?;
        if lengths.any(|other| other != length) || !length.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(malformed("it says several lengths, or none".into()));
        }
        length.parse().map_err(|_| HttpError::Size { what: "body", most: BODY_MOST })?
    };
    Ok(Some((reply, head, length)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::stream::Timed;
    use proptest::prelude::*;
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;
    use std::thread;
    use std::time::Instant;

    /// Hands out what it has in pieces, and keeps what it is told.
    struct Peer {
        says: Vec<u8>,
        piece: usize,
        heard: Vec<u8>,
    }

    impl Read for Peer {
        fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
            let count = self.piece.min(to.len()).min(self.says.len());
            to[..count].copy_from_slice(&self.says[..count]);
            self.says.drain(..count);
            Ok(count)
        }
    }

    impl Write for Peer {
        fn write(&mut self, from: &[u8]) -> io::Result<usize> {
            self.heard.extend(from);
            Ok(from.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl Stream for Peer {
        fn ask_within(&mut self, _: Duration) {}
    }

    fn says(says: &[u8], piece: usize) -> Http<Peer> {
        Http::new(Peer { says: says.into(), piece, heard: Vec::new() }, "host:1")
    }

    const TWO: &[u8] = b"HTTP/1.1 200 OK\r\nSet-Cookie: a=b; Path=/\r\nset-cookie: c=d\r\ncontent-length: 3\r\n\r\nabc\
        HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n";

    #[test]
    fn answers_follow_each_other_in_any_pieces() {
        for piece in 1..TWO.len() {
            let mut http = says(TWO, piece);
            let first = http.request("POST", "/p", &[("Cookie", "x=y")], Some(b"{}")).unwrap();
            assert_eq!((first.status, &first.body[..]), (200, &b"abc"[..]));
            assert_eq!((first.cookie("a"), first.cookie("c")), (Some("b".into()), Some("d".into())));
            let second = http.request("GET", "/q", &[], None).unwrap();
            assert_eq!((second.status, &second.body[..]), (404, &b""[..]));
            let heard = String::from_utf8(http.stream.heard).unwrap();
            let expected = "POST /p HTTP/1.1\r\nHost: host:1\r\nAccept: application/json\r\nCookie: x=y\r\n\
                Content-Type: application/json\r\nContent-Length: 2\r\n\r\n{}\
                GET /q HTTP/1.1\r\nHost: host:1\r\nAccept: application/json\r\n\r\n";
            assert_eq!(heard, expected);
        }
    }

    /// no-silent-trust: what is not plainly an answer is none.
    #[test]
    fn no_silent_trust_answers_have_their_limits() {
        for text in [
            "",
            "HTTP/1.1 200 OK\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nabc",
            "HTTP/1.1 200 OK\r\nContent-Length: +3\r\n\r\nabc",
            "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd",
            "HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999999\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 5000000\r\n\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            "HTTP/1.1 100 Continue\r\nContent-Length: 0\r\n\r\n",
            "SSH-2.0-x\r\n",
        ] {
            assert!(says(text.as_bytes(), 7).request("GET", "/", &[], None).is_err(), "{text:?}");
        }
        let endless = [b"HTTP/1.1 200 OK\r\nA: ".to_vec(), vec![b'a'; 1 << 20]].concat();
        let found = says(&endless, 4096).request("GET", "/", &[], None);
        assert!(matches!(found, Err(HttpError::Size { what: "head", .. })), "{found:?}");
        for path in ["/a b", "/\r\nX: y", "/\u{e9}"] {
            assert!(matches!(says(TWO, 99).request("GET", path, &[], None), Err(HttpError::Character)));
        }
        let header = says(TWO, 99).request("GET", "/", &[("A", "b\r\nC: d")], None);
        assert!(matches!(header, Err(HttpError::Character)));
    }

    /// no-silent-trust: an answer that never ends is none, however steadily it comes.
    #[test]
    fn no_silent_trust_answers_have_an_end() {
        for (before, after) in [("", "HTTP/1.1 200 OK\r\nA: "), ("HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n", "")] {
            let (ours, mut theirs) = UnixStream::pair().unwrap();
            let server = thread::spawn(move || {
                theirs.write_all(before.as_bytes()).unwrap();
                // For three seconds, ten times as long as anybody waits.
                for byte in after.bytes().chain([b'a'; 300]).take(150) {
                    if theirs.write_all(&[byte]).is_err() {
                        return;
                    }
                    thread::sleep(Duration::from_millis(20));
                }
            });
            let patience = Duration::from_millis(300);
            let mut http = Http::new(Timed::new(ours).unwrap(), "host").with_patience(patience);
            let began = Instant::now();
            let found = http.request("GET", "/", &[], None);
            let is_late = matches!(&found, Err(HttpError::Stream(error)) if error.kind() == io::ErrorKind::TimedOut);
            assert!(is_late, "{found:?}");
            assert!(began.elapsed() < 10 * patience, "{:?}", began.elapsed());
            drop(http);
            server.join().unwrap();
        }
    }

    proptest! {
        /// no-silent-trust: nothing that the other end says makes it panic.
        #[test]
        fn no_silent_trust_any_answer(
            place in 0..TWO.len(), bytes in prop::collection::vec(any::<u8>(), 0..8), piece in 1..99usize,
        ) {
            let mut text = TWO.to_vec();
            text.splice(place..(place + bytes.len()).min(TWO.len()), bytes);
            let mut http = says(&text, piece);
            let _ = http.request("GET", "/", &[], None);
            let _ = http.request("GET", "/", &[], None);
        }
    }
}
