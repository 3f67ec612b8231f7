//! JSON, read event by event, without building anything. Takes `NaN`, `Infinity` and `-Infinity` too, which Python's
//! `json.dumps` writes. Texts are not looked at for UTF-8.

use std::borrow::Cow;

/// How deep a value that is passed over may nest.
const MAX_DEPTH: u32 = 64;

/// What a value begins with.
#[derive(Debug, PartialEq)]
pub enum Token<'j> {
    Null,
    Bool(bool),
    Int(i64),
    Double(f64),
    Text(Cow<'j, [u8]>),
    Array,
    Object,
}

/// Not JSON from here on: what was expected.
#[derive(Debug, PartialEq, Eq)]
pub struct Malformed(pub &'static str);

const A_VALUE: &str = "a value";
const A_QUOTE: &str = "a string that ends";
const NO_CONTROL: &str = "no control character in a string";
/// What is said of a value that nests too deeply.
pub const LESS_NESTING: &str = "a value that nests less";

pub type Result<T> = std::result::Result<T, Malformed>;

pub struct Scanner<'j> {
    bytes: &'j [u8],
    at: usize,
}

impl<'j> Scanner<'j> {
    pub fn new(bytes: &'j [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    /// Where the scanner stands.
    pub fn at(&self) -> usize {
        self.at
    }

    /// What stands between two places.
    pub fn source(&self, from: usize, to: usize) -> &'j [u8] {
        &self.bytes[from..to]
    }

    /// The next byte that is not blank.
    pub fn peek(&mut self) -> Option<u8> {
        while let Some(b' ' | b'\t' | b'\n' | b'\r') = self.bytes.get(self.at) {
            self.at += 1;
        }
        self.bytes.get(self.at).copied()
    }

    fn fail<T>(&mut self, at: usize, what: &'static str) -> Result<T> {
        self.at = at;
        Err(Malformed(what))
    }

    fn take(&mut self, byte: u8) -> bool {
        let found = self.peek() == Some(byte);
        self.at += usize::from(found);
        found
    }

    fn word(&mut self, word: &[u8]) -> bool {
        let found = self.bytes[self.at..].starts_with(word);
        if found {
            self.at += word.len();
        }
        found
    }

    /// Nothing but space may follow.
    pub fn end(&mut self) -> Result<()> {
        if self.peek().is_none() {
            Ok(())
        } else {
            Err(Malformed("the end"))
        }
    }

    /// The next value. Of an array or object only the bracket is read: go on with [`Scanner::element`] or [`Scanner::key`].
    pub fn value(&mut self) -> Result<Token<'j>> {
        Ok(match self.peek().ok_or(Malformed(A_VALUE))? {
            b'{' => {
                self.at += 1;
                Token::Object
            }
            b'[' => {
                self.at += 1;
                Token::Array
            }
            b'"' => Token::Text(self.string()?),
            b'n' if self.word(b"null") => Token::Null,
            b't' if self.word(b"true") => Token::Bool(true),
            b'f' if self.word(b"false") => Token::Bool(false),
            b'N' if self.word(b"NaN") => Token::Double(f64::NAN),
            b'I' if self.word(b"Infinity") => Token::Double(f64::INFINITY),
            b'-' if self.word(b"-Infinity") => Token::Double(f64::NEG_INFINITY),
            b'-' | b'0'..=b'9' => self.number()?,
            _ => return Err(Malformed(A_VALUE)),
        })
    }

    /// Steps to the next element of an array; false at its end.
    pub fn element(&mut self, first: bool) -> Result<bool> {
        if self.take(b']') {
            return Ok(false);
        }
        if first || self.take(b',') {
            Ok(true)
        } else {
            Err(Malformed("a comma or ]"))
        }
    }

    /// The next key of an object; `None` at its end.
    pub fn key(&mut self, first: bool) -> Result<Option<Cow<'j, [u8]>>> {
        if self.take(b'}') {
            return Ok(None);
        }
        if !first && !self.take(b',') {
            return Err(Malformed("a comma or }"));
        }
        if self.peek() != Some(b'"') {
            return Err(Malformed("a key in quotes"));
        }
        let key = self.string()?;
        if self.take(b':') {
            Ok(Some(key))
        } else {
            Err(Malformed("a colon"))
        }
    }

    /// Passes over what is left of an array or object whose bracket `open` was read.
    pub fn skip(&mut self, open: &Token<'_>) -> Result<()> {
        self.skip_within(open, MAX_DEPTH)
    }

    fn skip_within(&mut self, open: &Token<'_>, depth: u32) -> Result<()> {
        if depth == 0 {
            return Err(Malformed(LESS_NESTING));
        }
        let mut first = true;
        loop {
            let more = match open {
                Token::Array => self.element(first)?,
                Token::Object => self.key(first)?.is_some(),
                _ => false,
            };
            if !more {
                return Ok(());
            }
            let value = self.value()?;
            self.skip_within(&value, depth - 1)?;
            first = false;
        }
    }

    fn string(&mut self) -> Result<Cow<'j, [u8]>> {
        let start = self.at + 1;
        let mut at = start;
        loop {
            match self.bytes.get(at).ok_or(Malformed(A_QUOTE))? {
                b'"' => break,
                b'\\' => return self.escaped(start, at),
                0..0x20 => return self.fail(at, NO_CONTROL),
                _ => at += 1,
            }
        }
        self.at = at + 1;
        Ok(Cow::Borrowed(&self.bytes[start..at]))
    }

    fn escaped(&mut self, start: usize, mut at: usize) -> Result<Cow<'j, [u8]>> {
        let mut text = self.bytes[start..at].to_vec();
        loop {
            let byte = *self.bytes.get(at).ok_or(Malformed(A_QUOTE))?;
            at += 1;
            match byte {
                b'"' => break,
                0..0x20 => return self.fail(at - 1, NO_CONTROL),
                b'\\' => {
                    let escape = *self.bytes.get(at).ok_or(Malformed(A_QUOTE))?;
                    at += 1;
                    text.push(match escape {
                        b'"' | b'\\' | b'/' => escape,
                        b'b' => 8,
                        b'f' => 12,
                        b'n' => b'\n',
                        b'r' => b'\r',
                        b't' => b'\t',
                        b'u' => {
                            let mut code = self.unit(at)?;
                            at += 4;
                            if (0xd800..0xdc00).contains(&code)
                                && self.bytes[at..].starts_with(b"\\u")
                            {
                                let low = self.unit(at + 2)?;
                                if (0xdc00..0xe000).contains(&low) {
                                    code = 0x10000 + ((code - 0xd800) << 10) + (low - 0xdc00);
                                    at += 6;
                                }
                            }
                            let character =
                                char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER);
                            text.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
                            continue;
                        }
                        _ => return self.fail(at - 1, "an escape"),
                    });
                }
                _ => text.push(byte),
            }
        }
        self.at = at;
        Ok(Cow::Owned(text))
    }

    fn unit(&self, at: usize) -> Result<u32> {
        const DIGITS: Malformed = Malformed("four hex digits after \\u");
        let digits = self.bytes.get(at..at + 4).ok_or(DIGITS)?;
        digits.iter().try_fold(0, |code, &digit| {
            Ok(code << 4 | char::from(digit).to_digit(16).ok_or(DIGITS)?)
        })
    }

    fn digits(&mut self) -> Result<usize> {
        let start = self.at;
        while self.bytes.get(self.at).is_some_and(u8::is_ascii_digit) {
            self.at += 1;
        }
        if self.at > start {
            Ok(self.at - start)
        } else {
            Err(Malformed("a digit"))
        }
    }

    fn number(&mut self) -> Result<Token<'j>> {
        let start = self.at;
        self.at += usize::from(self.bytes[start] == b'-');
        let leading = self.bytes.get(self.at).copied();
        if self.digits()? > 1 && leading == Some(b'0') {
            return self.fail(start, "a number that does not begin with 0");
        }
        let mut whole = true;
        if self.bytes.get(self.at) == Some(&b'.') {
            self.at += 1;
            self.digits()?;
            whole = false;
        }
        if let Some(b'e' | b'E') = self.bytes.get(self.at) {
            self.at += 1;
            self.at += usize::from(matches!(self.bytes.get(self.at), Some(b'+' | b'-')));
            self.digits()?;
            whole = false;
        }
        let text = std::str::from_utf8(&self.bytes[start..self.at]).unwrap_or_default();
        match text.parse::<i64>() {
            Ok(number) if whole => Ok(Token::Int(number)),
            _ => text
                .parse()
                .map(Token::Double)
                .map_err(|_| Malformed(A_VALUE)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(text: &str) -> Result<Token<'_>> {
        let mut scanner = Scanner::new(text.as_bytes());
        let token = scanner.value()?;
        scanner.skip(&token)?;
        scanner.end()?;
        Ok(token)
    }

    #[test]
    fn scalars() {
        for (text, expected) in [
            ("null", Token::Null),
            (" true ", Token::Bool(true)),
            ("-12", Token::Int(-12)),
            (
                "12345678901234567890",
                Token::Double(12345678901234567890.0),
            ),
            ("1.5e3", Token::Double(1500.0)),
            ("-Infinity", Token::Double(f64::NEG_INFINITY)),
            (
                r#""a\n\u00e9\ud83d\ude00\ud800""#,
                Token::Text(Cow::Borrowed("a\né😀\u{fffd}".as_bytes())),
            ),
            ("[1, [2, {}], {\"a\": [null]}]", Token::Array),
            ("{}", Token::Object),
        ] {
            assert_eq!(one(text), Ok(expected), "{text}");
        }
    }

    #[test]
    fn what_is_not_json_is_refused() {
        for text in [
            "",
            "nul",
            "01",
            "1.",
            "-",
            "+1",
            ".5",
            "1e",
            "[1,]",
            "[,1]",
            "[1 2]",
            "{\"a\"}",
            "{\"a\":1,}",
            "{a:1}",
            "\"a",
            "\"\\x\"",
            "\"\\u12\"",
            "1 2",
            "\"\n\"",
            "]",
        ] {
            assert!(one(text).is_err(), "{text}");
        }
        assert_eq!(one(&"[".repeat(1000)), Err(Malformed(LESS_NESTING)));
    }
}
