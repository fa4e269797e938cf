//! What a guest and its host say to each other over a channel: a length (u32, little-endian), and as many bytes.
//!
//! Owns both directions. A length that is too large is an error before anything is read. How long the rest is waited for
//! is for who reads to say.

use std::io::{self, Read};

/// More than anybody says.
pub const MOST: u32 = 1 << 20;

/// With its length.
pub fn framed(body: &[u8]) -> io::Result<Vec<u8>> {
    match u32::try_from(body.len()) {
        Ok(len) if len <= MOST => Ok([&len.to_le_bytes()[..], body].concat()),
        _ => Err(too_long(body.len())),
    }
}

/// One that was sent so.
pub fn read(from: &mut (impl Read + ?Sized)) -> io::Result<Vec<u8>> {
    let mut len = [0; 4];
    from.read_exact(&mut len)?;
    let len = u32::from_le_bytes(len);
    if len > MOST {
        return Err(too_long(len));
    }
    let mut body = Vec::new();
    let read = from.take(len.into()).read_to_end(&mut body)?;
    if read as u64 != u64::from(len) {
        return Err(io::Error::new(io::ErrorKind::UnexpectedEof, format!("{read} bytes came of {len}")));
    }
    Ok(body)
}

fn too_long(len: impl std::fmt::Display) -> io::Error {
    io::Error::new(io::ErrorKind::FileTooLarge, format!("{len} bytes are more than {MOST}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_framed_is_read() {
        for body in [&b""[..], b"some bytes", &[7; MOST as usize]] {
            assert_eq!(read(&mut &framed(body).unwrap()[..]).unwrap(), body);
        }
        assert!(framed(&[0; MOST as usize + 1]).is_err());
    }

    /// no-silent-trust: half of something is nothing, and a length is only that.
    #[test]
    fn no_silent_trust_a_length_is_not_believed() {
        for sent in [&[][..], &[1, 0], &[1, 0, 0, 0], &[3, 0, 0, 0, 1, 2], &u32::MAX.to_le_bytes()] {
            assert!(read(&mut &*sent).is_err(), "{sent:?}");
        }
    }
}
