//! Where a chunked body ends, read to the letter of RFC 9112, 7.1. Pure; `gate` runs it over a body on its
//! way to hyper, which decodes it: what two readers might take for two bodies does not get that far.

/// Bytes of chunk extensions in one body. No client of a proxy has a use for them; they are read and, as
/// RFC 9112, 7.1.1 wants it, not understood.
const MOST_EXTENSIONS: usize = 4 * 1024;
/// Bytes of a trailer section.
const MOST_TRAILERS: usize = 16 * 1024;
/// Hexadecimal digits of a chunk's size: 64 bits.
const MOST_DIGITS: u32 = 16;

/// A reader of one chunked body.
#[derive(Debug, Default)]
pub struct Chunks {
    at: At,
    /// Whether blanks may stand behind a size.
    blanks: bool,
    extensions: usize,
    trailers: usize,
}

/// What is due.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum At {
    /// The first digit of a size.
    #[default]
    Begin,
    /// More digits, `;` or CR.
    Size { size: u64, digits: u32 },
    /// More blanks behind a size, `;` or CR.
    Blank { size: u64 },
    /// More of an extension, or CR.
    Extension { size: u64 },
    /// The LF behind a size.
    SizeLf { size: u64 },
    /// So many bytes of data.
    Data { left: u64 },
    /// The CR behind the data.
    DataCr,
    /// The LF behind it.
    DataLf,
    /// The begin of a trailer field, or of the empty line.
    Line,
    /// More of a trailer field, or CR.
    Field,
    /// The LF behind a trailer field.
    FieldLf,
    /// The last LF.
    LastLf,
    /// Nothing: the body has ended.
    End,
}

/// A part of a body that means something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part<'b> {
    /// A piece of a chunk's data.
    Data(&'b [u8]),
    /// A byte of the trailer fields.
    Trailer(u8),
}

/// How far a body has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fed {
    /// Bytes that are the body's.
    pub used: usize,
    /// Whether it ends with them.
    pub ended: bool,
}

impl Chunks {
    /// A reader of an answer's body: some servers pad their sizes with blanks, and nobody takes that for
    /// another size.
    pub fn of_answer() -> Self {
        Self { blanks: true, ..Self::default() }
    }

    /// Reads what comes next, and says how much of it belongs to the body.
    ///
    /// # Errors
    ///
    /// What is wrong with it. Nothing behind that can be told apart.
    pub fn feed(&mut self, bytes: &[u8]) -> Result<Fed, &'static str> {
        self.decode(bytes, |_| {})
    }

    /// The same; `part` hears of each piece of the content and each byte of the trailer fields, in order.
    ///
    /// # Errors
    ///
    /// As [`Chunks::feed`].
    pub fn decode(&mut self, bytes: &[u8], mut part: impl FnMut(Part<'_>)) -> Result<Fed, &'static str> {
        let mut used = 0;
        while self.at != At::End {
            if let At::Data { left } = self.at {
                let here = usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len() - used);
                if here > 0 {
                    part(Part::Data(bytes.get(used..used + here).unwrap_or_default()));
                }
                used += here;
                let left = left - here as u64;
                self.at = if left == 0 { At::DataCr } else { At::Data { left } };
                if left > 0 {
                    break;
                }
            }
            let Some(byte) = bytes.get(used) else { break };
            let next = self.next(*byte)?;
            if matches!(self.at, At::Line | At::Field | At::FieldLf) && next != At::LastLf {
                part(Part::Trailer(*byte));
            }
            self.at = next;
            used += 1;
        }
        Ok(Fed { used, ended: self.at == At::End })
    }

    fn next(&mut self, byte: u8) -> Result<At, &'static str> {
        const SIZE: &str = "a chunk's size is not hexadecimal digits and CR LF";
        Ok(match (self.at, byte) {
            (At::Begin, b) => At::Size { size: digit(b).ok_or(SIZE)?, digits: 1 },
            (At::Size { size, .. }, b'\r') => At::SizeLf { size },
            (At::Size { size, .. } | At::Blank { size }, b';') => At::Extension { size },
            (At::Size { size, .. } | At::Blank { size }, b' ' | b'\t') if self.blanks => At::Blank { size },
            (At::Blank { size }, b'\r') => At::SizeLf { size },
            (At::Blank { .. }, _) => return Err(SIZE),
            (At::Size { digits: MOST_DIGITS, .. }, _) => return Err("a chunk's size has too many digits"),
            (At::Size { size, digits }, b) => {
                At::Size { size: size << 4 | digit(b).ok_or(SIZE)?, digits: digits + 1 }
            }
            (At::Extension { size }, b'\r') => At::SizeLf { size },
            (At::Extension { size }, b) if is_text(b) => {
                self.extensions += 1;
                if self.extensions > MOST_EXTENSIONS {
                    return Err("the chunk extensions are too long");
                }
                At::Extension { size }
            }
            (At::Extension { .. }, _) => return Err("a chunk extension has a control character"),
            (At::SizeLf { size: 0 }, b'\n') => At::Line,
            (At::SizeLf { size }, b'\n') => At::Data { left: size },
            (At::SizeLf { .. }, _) => return Err("a chunk's size does not end in CR LF"),
            (At::DataCr, b'\r') => At::DataLf,
            (At::DataLf, b'\n') => At::Begin,
            (At::DataCr | At::DataLf, _) => return Err("a chunk is not as long as it says"),
            (At::Line, b'\r') => At::LastLf,
            (At::Line, b' ' | b'\t') => return Err("a trailer field is folded"),
            (At::Field, b'\r') => At::FieldLf,
            (At::Line | At::Field, b) if is_text(b) => {
                self.trailers += 1;
                if self.trailers > MOST_TRAILERS {
                    return Err("the trailer section is too long");
                }
                At::Field
            }
            (At::Line | At::Field, _) => return Err("a trailer field has a control character"),
            (At::FieldLf, b'\n') => At::Line,
            (At::LastLf, b'\n') => At::End,
            (At::FieldLf | At::LastLf, _) => return Err("a trailer field does not end in CR LF"),
            // Both are passed by in `feed`.
            (At::Data { .. } | At::End, _) => return Err("the body has ended"),
        })
    }
}

fn digit(byte: u8) -> Option<u64> {
    char::from(byte).to_digit(16).map(u64::from)
}

/// What a field's value and an extension may hold (RFC 9110, 5.5).
fn is_text(byte: u8) -> bool {
    byte == b'\t' || (byte >= b' ' && byte != 0x7f)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn feed(text: &[u8]) -> Result<Fed, &'static str> {
        Chunks::default().feed(text)
    }

    #[test]
    fn content_comes_out_and_answers_may_pad_their_sizes() {
        let text = b"5 \t;x\r\nhello\r\n2\t\r\n, \r\n5\r\nworld\r\n0  \r\nX: y\r\n\r\nrest";
        for step in 1..text.len() {
            let (mut chunks, mut content, mut trailers, mut used) =
                (Chunks::of_answer(), Vec::new(), Vec::new(), 0);
            for piece in text.chunks(step) {
                let fed = chunks.decode(piece, |part| match part {
                    Part::Data(data) => content.extend_from_slice(data),
                    Part::Trailer(byte) => trailers.push(byte),
                });
                let fed = fed.unwrap();
                used += fed.used;
                if fed.ended {
                    break;
                }
            }
            assert_eq!((content.as_slice(), used), (&b"hello, world"[..], text.len() - 4), "{step}");
            assert_eq!(trailers, b"X: y\r\n");
        }
        assert!(Chunks::of_answer().feed(b"5 5\r\n").is_err());
        assert!(Chunks::of_answer().feed(b" 5\r\n").is_err());
    }

    #[test]
    fn a_body_ends_where_it_says() {
        for body in [
            "0\r\n\r\n",
            "5\r\nhello\r\n0\r\n\r\n",
            "A\r\n0123456789\r\n1\r\n\r\r\n0\r\n\r\n",
            "00000003;a=b;c=\"d e\"\r\nabc\r\n000\r\nX-Sum: 1\r\nY:\tz\r\n\r\n",
            "5;\r\n0\r\n\r\n\r\n0;last\r\n\r\n",
        ] {
            let text = format!("{body}GET / HTTP/1.1\r\n");
            assert_eq!(feed(text.as_bytes()), Ok(Fed { used: body.len(), ended: true }), "{body:?}");
            for cut in 0..body.len() {
                assert_eq!(feed(&text.as_bytes()[..cut]), Ok(Fed { used: cut, ended: false }), "{body:?}");
            }
        }
    }

    #[test]
    fn what_another_reader_may_take_otherwise_is_refused() {
        for (body, why) in [
            ("\r\n5\r\n", "hexadecimal"),
            ("g\r\n", "hexadecimal"),
            ("0x5\r\nhello", "hexadecimal"),
            ("+5\r\n", "hexadecimal"),
            ("-1\r\n", "hexadecimal"),
            (" 5\r\n", "hexadecimal"),
            ("5 \r\n", "hexadecimal"),
            ("5\nhello\n", "hexadecimal"),
            ("5\rhello", "does not end in CR LF"),
            ("00000000000000005\r\nhello", "too many digits"),
            ("5;a\nhello\r\n0\r\n\r\n", "control character"),
            ("5;a\rb\r\nhello", "does not end in CR LF"),
            ("5;\0\r\n", "control character"),
            ("5\r\nhelloX", "as long as it says"),
            ("5\r\nhello\n0\r\n\r\n", "as long as it says"),
            ("5\r\nhello\rX", "as long as it says"),
            ("0\r\n X: y\r\n", "folded"),
            ("0\r\nX: y\r\n\tz\r\n", "folded"),
            ("0\r\nX: y\n\n", "control character"),
            ("0\r\nX: y\rz\r\n", "does not end in CR LF"),
            ("0\r\n\rX", "does not end in CR LF"),
        ] {
            assert!(
                feed(body.as_bytes()).is_err_and(|e| e.contains(why)),
                "{body:?}: {:?}",
                feed(body.as_bytes())
            );
        }
        let long = format!("5;{}\r\n", "x".repeat(MOST_EXTENSIONS + 1));
        assert!(feed(long.as_bytes()).is_err());
        let long = format!("0\r\nX: {}\r\n", "x".repeat(MOST_TRAILERS));
        assert!(feed(long.as_bytes()).is_err());
    }

    proptest::proptest! {
        #[test]
        fn it_does_not_matter_how_the_bytes_arrive(
            text in "([0-3](;a)?\r?\n[ab]{0,3}(\r\n)?){0,4}0\r\n(X: y\r\n)?\r?\n?.{0,5}",
            step in 1_usize..7,
        ) {
            let whole = feed(text.as_bytes());
            let (mut chunks, mut used) = (Chunks::default(), 0);
            let mut pieces = Ok(Fed { used: 0, ended: false });
            for piece in text.as_bytes().chunks(step) {
                match chunks.feed(piece) {
                    Ok(fed) => {
                        used += fed.used;
                        pieces = Ok(Fed { used, ended: fed.ended });
                        if fed.ended {
                            break;
                        }
                    }
                    Err(why) => {
                        pieces = Err(why);
                        break;
                    }
                }
            }
            proptest::prop_assert_eq!(whole, pieces);
        }
    }
}
