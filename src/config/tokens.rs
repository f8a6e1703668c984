//! The admin API's bearer tokens as text: in `ADMIN_TOKEN`, and in the file that `ADMIN_TOKEN_FILE`
//! names, which the admin port reads again when it changes.

use std::io::{self, Read as _};
use std::path::Path;

use super::reader::split;
use crate::secret::Secret;

/// Shortest admin token: less is guessed.
pub const MIN_TOKEN: usize = 16;

/// Largest token file: room for some hundred tokens.
const MAX_FILE: u64 = 64 << 10;

/// What is wrong with a list of tokens. Names them by number: they are secret.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenMistake {
    /// The file cannot be read.
    #[error("cannot read it: {0}")]
    Unreadable(String),
    /// There is none.
    #[error("holds no token")]
    Empty,
    /// Too short to be safe.
    #[error("token {0} of {1} is shorter than {MIN_TOKEN} characters")]
    Short(usize, usize),
    /// Not of printable ASCII.
    #[error("token {0} of {1} has characters that no header can carry")]
    Characters(usize, usize),
}

impl TokenMistake {
    /// What to do about it.
    pub fn fix(&self) -> &'static str {
        match self {
            Self::Unreadable(_) => "write the path of a readable file",
            Self::Empty => "make one with `openssl rand -hex 32`, or remove it",
            Self::Short(..) | Self::Characters(..) => "make one with `openssl rand -hex 32`",
        }
    }
}

/// The tokens of a text: words between commas and white space; on each line, `#` begins a comment where
/// a word could begin.
pub(super) fn parse(text: &Secret) -> (Vec<Secret>, Vec<TokenMistake>) {
    let words: Vec<&str> = text
        .expose()
        .lines()
        .flat_map(|line| split(line).take_while(|word| !word.starts_with('#')))
        .collect();
    let mut mistakes = Vec::new();
    for (n, word) in words.iter().enumerate() {
        if word.len() < MIN_TOKEN {
            mistakes.push(TokenMistake::Short(n + 1, words.len()));
        } else if !word.bytes().all(|b| b.is_ascii_graphic()) {
            mistakes.push(TokenMistake::Characters(n + 1, words.len()));
        }
    }
    if words.is_empty() {
        mistakes.push(TokenMistake::Empty);
    }
    (words.into_iter().map(Secret::from).collect(), mistakes)
}

/// Reads the tokens of a file.
///
/// # Errors
///
/// With the first mistake in it: a file with one is not taken.
pub fn read_token_file(path: &Path) -> Result<Vec<Secret>, TokenMistake> {
    let unreadable = |error: io::Error| TokenMistake::Unreadable(error.to_string());
    let mut text = String::new();
    let file = std::fs::File::open(path).map_err(unreadable)?;
    let read = file.take(MAX_FILE + 1).read_to_string(&mut text).map_err(unreadable)?;
    let text = Secret::from(text);
    if read as u64 > MAX_FILE {
        return Err(TokenMistake::Unreadable("it is larger than 64 KiB".to_owned()));
    }
    let (tokens, mistakes) = parse(&text);
    match mistakes.into_iter().next() {
        None => Ok(tokens),
        Some(mistake) => Err(mistake),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> (Vec<String>, Vec<TokenMistake>) {
        let (tokens, mistakes) = parse(&Secret::from(text));
        (tokens.iter().map(|token| token.expose().to_owned()).collect(), mistakes)
    }

    #[test]
    fn a_list_and_a_file_with_comments() {
        let (a, b) = ("0123456789abcdef", "fedcba98#7654321");
        let both = (vec![a.to_owned(), b.to_owned()], Vec::new());
        assert_eq!(parsed(&format!("{a}, {b}")), both);
        assert_eq!(parsed(&format!("# old\n{a}\n\n  # new, since May\n{b} # for the screenshots\n")), both);
    }

    #[test]
    fn mistakes_name_the_token_by_number_and_never_show_it() {
        assert_eq!(parsed("").1, [TokenMistake::Empty]);
        assert_eq!(parsed("# nothing\n").1, [TokenMistake::Empty]);
        let (_, mistakes) = parsed("0123456789abcdef,hunter2,päßword-of-the-api");
        assert_eq!(mistakes, [TokenMistake::Short(2, 3), TokenMistake::Characters(3, 3)]);
        assert!(mistakes.iter().all(|mistake| !mistake.to_string().contains("hunter2")));
    }

    #[test]
    fn a_file_is_taken_whole_or_not_at_all() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("tokens");
        assert!(matches!(read_token_file(&path), Err(TokenMistake::Unreadable(_))));
        std::fs::write(&path, "0123456789abcdef\nshort\n").unwrap();
        assert_eq!(read_token_file(&path), Err(TokenMistake::Short(2, 2)));
        std::fs::write(&path, "0123456789abcdef\n").unwrap();
        assert_eq!(read_token_file(&path).unwrap().len(), 1);
        assert!(read_token_file(Path::new("/dev/zero")).unwrap_err().to_string().contains("64 KiB"));
    }
}
