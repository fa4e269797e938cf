//! What a relying party, or whoever is at the other end, says to a guest.

use std::io::{self, Read, Write};
use std::time::Duration;

use attest_kbs::client::evidence::{EvidenceSource, SourceError};
use attest_kbs::client::http::Http;
use attest_kbs::client::stream::Stream;
use attest_kbs::client::{ClientError, Session};
use attest_kbs::protocol::Tee;
use attest_kbs::protocol::evidence::Evidence;

use crate::script::Input;

pub(crate) const WORDS: &[&str] = &[
    "HTTP/1.1 200 OK\\x0D\\x0A",
    "Content-Length: ",
    "Transfer-Encoding: chunked\\x0D\\x0A",
    "Content-Encoding: gzip\\x0D\\x0A",
    "Set-Cookie: kbs-session-id=a\\x0D\\x0A",
    "tenure-tier: hardware\\x0D\\x0A",
    "\\x0D\\x0A\\x0D\\x0A",
    "\\\"nonce\\\"",
    "\\\"extra-params\\\"",
    "\\\"token\\\"",
    "4194305",
    "18446744073709551616",
];

/// Says what an input has, in pieces, whatever it is asked.
struct Peer<'a> {
    says: &'a [u8],
    piece: usize,
    heard: Vec<u8>,
}

impl Read for Peer<'_> {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        let (now, later) = self.says.split_at(self.piece.min(self.says.len()).min(to.len()));
        to[..now.len()].copy_from_slice(now);
        self.says = later;
        Ok(now.len())
    }
}

impl Write for Peer<'_> {
    fn write(&mut self, from: &[u8]) -> io::Result<usize> {
        self.heard.extend(from);
        Ok(from.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Stream for Peer<'_> {
    fn ask_within(&mut self, _: Duration) {}
}

struct Source;

impl EvidenceSource for Source {
    fn tee(&self) -> Tee {
        Tee::Snp
    }

    fn evidence(&mut self, report_data: &[u8; 64]) -> Result<Evidence, SourceError> {
        Ok(Evidence::Snp { report: report_data.into(), certificates: None, launch_log: None })
    }
}

/// No answer makes a guest believe that it has a secret: nobody at the other end encrypts to its key.
pub(crate) fn answer(input: &[u8]) {
    let mut input = Input(input);
    let piece = usize::from(input.byte()).max(1) * 16;
    let peer = || Peer { says: input.0, piece, heard: Vec::new() };
    if let Ok(reply) = Http::new(peer(), "kbs").request("GET", "/", &[], None) {
        assert!(reply.status >= 200 && reply.body.len() <= input.0.len());
        let _ = (reply.header("tenure-tier"), reply.cookie("kbs-session-id"));
    }
    match Session::attest(Http::new(peer(), "kbs"), &mut Source) {
        Ok(mut session) => {
            let _ = (session.tier().len(), session.token().len());
            assert!(session.resource(&"a/b/c".parse().unwrap()).is_err());
        }
        Err(error) => {
            let text = error.to_string();
            // What others say comes to a terminal.
            let is_said = matches!(error, ClientError::Refused { .. } | ClientError::Failed { .. });
            assert!(!is_said || !text.chars().any(char::is_control), "{text:?}");
        }
    }
}

fn reply(status: &str, headers: &str, body: &str) -> String {
    format!("HTTP/1.1 {status}\r\n{headers}content-length: {}\r\n\r\n{body}", body.len())
}

pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let cookie = "set-cookie: kbs-session-id=abc; Path=/kbs\r\ncontent-type: application/json\r\n";
    let challenge =
        reply("200 OK", cookie, r#"{"nonce":"bm9uY2U=","extra-params":{"selected-hash-algorithm":"sha384"}}"#);
    let token = reply("200 OK", "tenure-tier: software-test\r\n", r#"{"token":"a.b.c"}"#);
    let protected = "eyJhbGciOiJFQ0RILUVTK0EyNTZLVyIsImVuYyI6IkEyNTZHQ00iLCJlcGsiOnsia3R5IjoiRUMiLCJjcnYiOiJQLTI1NiIsIngiOiJ3ZU5KeTJIc2NDU002QUVEVERnMDRiaU92aEZoeXlXdk9IUWZlRl9QeE1RIiwieSI6ImU4bG5DTy1BbFN0VC1OSlZYLWNyaEI3UVJZaGlpeDAzaWxsSk9WQU95Y2sifX0";
    let secret = format!(
        r#"{{"protected":"{protected}","encrypted_key":"{}","iv":"AAAAAAAAAAAAAAAA","ciphertext":"AAAA","tag":"AAAAAAAAAAAAAAAAAAAAAA"}}"#,
        "A".repeat(54)
    );
    let secret = reply("200 OK", "", &secret);
    let refusal = reply("401 Unauthorized", "", r#"{"type":"https://x/errors/Token","detail":"no\u001b[2J"}"#);
    let flows = [
        challenge.clone(),
        format!("{challenge}{token}{secret}"),
        format!("{challenge}{refusal}"),
        refusal.clone(),
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n".into(),
    ];
    flows.iter().flat_map(|flow| [1, 255].map(|piece| [&[piece], flow.as_bytes()].concat())).collect()
}
