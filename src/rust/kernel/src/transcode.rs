//! OTLP/JSON to OTLP protobuf, by a schema that is an argument: the kernel knows no field by name.
//!
//! One pass over the document; what each member becomes follows from its key alone. What is taken, passed over and refused is
//! written in `leadline/receive/otlp_json.py`, which makes the schema.

use std::borrow::Cow;
use std::collections::HashMap;

use crate::decode::value::clip;
use crate::json::{LESS_NESTING, Malformed, Scanner, Token};
use crate::rowbinary::put_varint;

/// Levels of arrays and maps in an attribute's value; the bound for protobuf is the same.
const MAX_DEPTH: u32 = 64;
const NOT_JSON: &str = "not JSON";
/// Of what was got, this much is shown.
const MAX_SHOWN: usize = 80;

/// How an integer is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Integer {
    /// Two's complement of 64 bits.
    Varint,
    ZigZag,
    Fixed32,
    Fixed64,
}

/// What a member holds.
#[derive(Debug, Clone)]
pub enum Kind {
    /// Index into [`Schema::messages`].
    Message(usize),
    Text,
    Base64,
    /// Hex digits of so many bytes; an empty text is an empty id.
    Id(usize),
    Bool,
    Double,
    Integer {
        low: i128,
        high: i128,
        form: Integer,
    },
    /// Names and numbers, in their order.
    Enum(Vec<(Box<str>, i32)>),
}

#[derive(Debug, Clone)]
pub struct Field {
    pub number: u32,
    pub kind: Kind,
    pub repeated: bool,
    /// A null is a value (NaN), not an absence.
    pub takes_null: bool,
}

#[derive(Debug, Clone, Default)]
pub struct Message {
    /// By each of its names.
    pub fields: HashMap<Box<[u8]>, usize>,
    /// It holds itself: levels are counted, and a null among its kind is an empty one.
    pub nests: bool,
}

impl Kind {
    /// An integer by protobuf's name of its type.
    pub fn integer(name: &str) -> Option<Kind> {
        let (bits, signed, form) = match name {
            "int32" => (32, true, Integer::Varint),
            "int64" => (64, true, Integer::Varint),
            "uint32" => (32, false, Integer::Varint),
            "uint64" => (64, false, Integer::Varint),
            "sint32" => (32, true, Integer::ZigZag),
            "sint64" => (64, true, Integer::ZigZag),
            "fixed32" => (32, false, Integer::Fixed32),
            "fixed64" => (64, false, Integer::Fixed64),
            "sfixed32" => (32, true, Integer::Fixed32),
            "sfixed64" => (64, true, Integer::Fixed64),
            _ => return None,
        };
        let low = if signed { -(1i128 << (bits - 1)) } else { 0 };
        let high = (1i128 << (bits - i32::from(signed))) - 1;
        Some(Kind::Integer { low, high, form })
    }
}

/// The messages of a request; the first is the request itself.
#[derive(Debug, Clone, Default)]
pub struct Schema {
    pub messages: Vec<Message>,
    pub fields: Vec<Field>,
}

/// Why a document is refused.
#[derive(Debug, PartialEq, Eq)]
pub enum Error {
    /// The member at fault, empty where it is the document; what is wrong with it; and where the scanner stood.
    Fault {
        path: String,
        what: String,
        offset: usize,
    },
    /// The result would be larger than the limit.
    TooLarge,
}

/// Transcodes a document into at most `limit` bytes. An empty one is an empty request.
pub fn transcode(schema: &Schema, document: &[u8], limit: usize) -> Result<Vec<u8>, Error> {
    let document = document.strip_prefix(b"\xef\xbb\xbf").unwrap_or(document);
    if let Err(error) = std::str::from_utf8(document) {
        let offset = error.valid_up_to();
        return Err(Error::Fault {
            path: String::new(),
            what: format!("{NOT_JSON}: invalid UTF-8 at byte {offset}"),
            offset,
        });
    }
    let mut transcoder = Transcoder {
        schema,
        scanner: Scanner::new(document),
        limit,
        out: Vec::with_capacity(document.len().min(limit) / 4),
        written: Vec::new(),
        fault: None,
    };
    if transcoder.scanner.peek().is_none() {
        return Ok(Vec::new());
    }
    match transcoder.request() {
        Ok(()) => Ok(transcoder.out),
        Err(Stop) => Err(transcoder.error()),
    }
}

/// Leave everything: the reason is in [`Transcoder::fault`].
#[derive(Debug)]
struct Stop;

type Step = Result<(), Stop>;

enum Fault {
    /// Text, offset, and the places on the way up, innermost first.
    At(String, usize, Vec<String>),
    TooLarge,
}

struct Transcoder<'d, 's> {
    schema: &'s Schema,
    scanner: Scanner<'d>,
    limit: usize,
    out: Vec<u8>,
    /// Which fields of the open objects stand where, for keys that occur twice.
    written: Vec<(usize, usize, usize)>,
    fault: Option<Fault>,
}

impl<'d> Transcoder<'d, '_> {
    fn error(self) -> Error {
        match self.fault {
            Some(Fault::At(what, offset, mut places)) => {
                places.reverse();
                let mut path = places.concat().trim_start_matches('.').to_owned();
                if what.starts_with(NOT_JSON) {
                    path.clear();
                }
                Error::Fault { path, what, offset }
            }
            Some(Fault::TooLarge) | None => Error::TooLarge,
        }
    }

    #[cold]
    fn fail<T>(&mut self, what: impl Into<String>) -> Result<T, Stop> {
        self.fault = Some(Fault::At(what.into(), self.scanner.at(), Vec::new()));
        Err(Stop)
    }

    /// Adds a place on the way up.
    fn within<T>(
        &mut self,
        result: Result<T, Stop>,
        place: impl FnOnce() -> String,
    ) -> Result<T, Stop> {
        if result.is_err() {
            if let Some(Fault::At(_, _, places)) = &mut self.fault {
                places.push(place());
            }
        }
        result
    }

    fn json<T>(&mut self, result: Result<T, Malformed>) -> Result<T, Stop> {
        match result {
            Ok(value) => Ok(value),
            Err(Malformed(LESS_NESTING)) => self.fail(format!(
                "nested too deeply: values may nest {MAX_DEPTH} levels"
            )),
            Err(Malformed(what)) => {
                let at = self.scanner.at();
                self.fail(format!("{NOT_JSON}: expected {what} at byte {at}"))
            }
        }
    }

    fn value(&mut self) -> Result<Token<'d>, Stop> {
        let value = self.scanner.value();
        self.json(value)
    }

    fn skip(&mut self, token: &Token<'_>) -> Step {
        let skipped = self.scanner.skip(token);
        self.json(skipped)
    }

    fn request(&mut self) -> Step {
        let token = self.value()?;
        if token != Token::Object {
            return self.fail(format!("expected an object, got {}", kind_of(&token)));
        }
        self.message(0, 0)?;
        let end = self.scanner.end();
        self.json(end)
    }

    /// The members of an object whose bracket was read.
    fn message(&mut self, message: usize, depth: u32) -> Step {
        let schema = self.schema;
        let Message { fields, nests } = &schema.messages[message];
        let depth = depth + u32::from(*nests);
        if depth > MAX_DEPTH + 1 {
            return self.fail(format!(
                "nested too deeply: values may nest {MAX_DEPTH} levels"
            ));
        }
        let mark = self.written.len();
        let mut first = true;
        loop {
            let key = self.scanner.key(first);
            let Some(key) = self.json(key)? else {
                break;
            };
            first = false;
            let from = self.scanner.at();
            let token = self.value()?;
            let Some(&field) = fields.get(&*key) else {
                let skipped = self.skip(&token);
                self.within(skipped, || format!(".{}", shown_key(&key)))?;
                continue;
            };
            self.forget(mark, field);
            let start = self.out.len();
            let member = self.member(&schema.fields[field], &token, from, depth);
            self.within(member, || format!(".{}", shown_key(&key)))?;
            if self.out.len() > self.limit {
                self.fault = Some(Fault::TooLarge);
                return Err(Stop);
            }
            self.written.push((field, start, self.out.len()));
        }
        self.written.truncate(mark);
        Ok(())
    }

    /// Takes out what an earlier member of the object's wrote for a field: the later counts.
    fn forget(&mut self, mark: usize, field: usize) {
        let found = self.written[mark..]
            .iter()
            .position(|(known, ..)| *known == field);
        if let Some(index) = found {
            let (_, start, end) = self.written.remove(mark + index);
            self.out.drain(start..end);
            for (_, from, to) in &mut self.written[mark + index..] {
                *from -= end - start;
                *to -= end - start;
            }
        }
    }

    /// A member whose value begins with `token`, at `from`.
    fn member(&mut self, field: &Field, token: &Token<'d>, from: usize, depth: u32) -> Step {
        if *token == Token::Null && (field.repeated || !field.takes_null) {
            return Ok(());
        }
        if !field.repeated {
            return self.one(field, token, from, depth);
        }
        if *token != Token::Array {
            return self.fail(format!("expected an array, got {}", kind_of(token)));
        }
        let is_packed = !matches!(
            field.kind,
            Kind::Message(_) | Kind::Text | Kind::Base64 | Kind::Id(_)
        );
        let body = if is_packed {
            Some(self.open(field.number))
        } else {
            None
        };
        let mut index = 0;
        loop {
            let more = self.scanner.element(index == 0);
            if !self.json(more)? {
                break;
            }
            let from = self.scanner.at();
            let element = self.value().and_then(|token| match (&field.kind, &token) {
                (Kind::Message(message), Token::Null) => {
                    if self.schema.messages[*message].nests {
                        let body = self.open(field.number);
                        self.close(body);
                    }
                    Ok(())
                }
                _ if is_packed => self.scalar(field, &token, from),
                _ => self.one(field, &token, from, depth),
            });
            self.within(element, || format!("[{index}]"))?;
            if self.out.len() > self.limit {
                self.fault = Some(Fault::TooLarge);
                return Err(Stop);
            }
            index += 1;
        }
        if let Some(body) = body {
            self.close(body);
        }
        Ok(())
    }

    /// One value, with its tag.
    fn one(&mut self, field: &Field, token: &Token<'d>, from: usize, depth: u32) -> Step {
        match field.kind {
            Kind::Message(message) => {
                if *token != Token::Object {
                    return self.fail(format!("expected an object, got {}", kind_of(token)));
                }
                let body = self.open(field.number);
                self.message(message, depth)?;
                self.close(body);
                Ok(())
            }
            _ => {
                self.tag(field);
                self.scalar(field, token, from)
            }
        }
    }

    fn tag(&mut self, field: &Field) {
        let wire_type = match field.kind {
            Kind::Message(_) | Kind::Text | Kind::Base64 | Kind::Id(_) => 2,
            Kind::Double => 1,
            Kind::Integer {
                form: Integer::Fixed64,
                ..
            } => 1,
            Kind::Integer {
                form: Integer::Fixed32,
                ..
            } => 5,
            Kind::Bool | Kind::Enum(_) | Kind::Integer { .. } => 0,
        };
        put_varint(&mut self.out, u64::from(field.number << 3 | wire_type));
    }

    /// Begins what is written with its length before it; gives where.
    fn open(&mut self, number: u32) -> usize {
        put_varint(&mut self.out, u64::from(number << 3 | 2));
        self.out.push(0);
        self.out.len()
    }

    /// Writes the length of what was written since `body`.
    fn close(&mut self, body: usize) {
        let length = self.out.len() - body;
        if length < 0x80 {
            self.out[body - 1] = length as u8;
            return;
        }
        let mut varint = Vec::with_capacity(10);
        put_varint(&mut varint, length as u64);
        self.out.splice(body - 1..body, varint);
    }

    /// A value that is no object or array, without its tag.
    fn scalar(&mut self, field: &Field, token: &Token<'d>, from: usize) -> Step {
        match (&field.kind, token) {
            (Kind::Text, Token::Text(text)) => put_bytes(&mut self.out, text),
            (Kind::Text, _) => {
                return self.fail(format!("expected a string, got {}", kind_of(token)));
            }
            (Kind::Base64, Token::Text(text)) => match crate::decode::base64(text) {
                Some(bytes) => put_bytes(&mut self.out, &bytes),
                None => return self.expected("base64", from),
            },
            (Kind::Base64, _) => {
                let kind = kind_of(token);
                return self.fail(format!("expected base64 in a string, got {kind}"));
            }
            (Kind::Id(_), Token::Text(text)) if text.is_empty() => self.out.push(0),
            (Kind::Id(size), _) => {
                let id = match token {
                    Token::Text(text) if text.len() == 2 * size => hex(text),
                    _ => None,
                };
                match id {
                    Some(id) => put_bytes(&mut self.out, &id),
                    None => return self.expected(&format!("{} hex digits", 2 * size), from),
                }
            }
            (Kind::Bool, Token::Bool(value)) => self.out.push(u8::from(*value)),
            (Kind::Bool, _) => return self.expected("true or false", from),
            (Kind::Double, _) => match self.double(token, from) {
                Some(number) => self.out.extend_from_slice(&number.to_le_bytes()),
                None => {
                    let what = r#"a number, "NaN", "Infinity" or "-Infinity""#;
                    return self.expected(what, from);
                }
            },
            (Kind::Integer { low, high, form }, _) => match self.integer(token, from) {
                Some(number) if (*low..=*high).contains(&number) => self.put_integer(*form, number),
                _ => {
                    let what = format!("an integer from {low} to {high}, as a number or a string");
                    return self.expected(&what, from);
                }
            },
            (Kind::Enum(names), _) => {
                let named = match token {
                    Token::Text(text) => names.iter().find(|(name, _)| name.as_bytes() == &**text),
                    _ => None,
                };
                let number = match named {
                    Some((_, number)) => Some(i128::from(*number)),
                    None => self.integer(token, from),
                };
                match number.filter(|number| i32::try_from(*number).is_ok()) {
                    Some(number) => self.put_integer(Integer::Varint, number),
                    None => {
                        let names: Vec<&str> = names.iter().map(|(name, _)| &**name).collect();
                        let what = format!("a number or one of {}", names.join(", "));
                        return self.expected(&what, from);
                    }
                }
            }
            (Kind::Message(_), _) => {}
        }
        Ok(())
    }

    fn put_integer(&mut self, form: Integer, number: i128) {
        // the range of the field was checked, so no bits are lost
        let bits = number as u64;
        match form {
            Integer::Varint => put_varint(&mut self.out, bits),
            Integer::ZigZag => {
                let number = bits as i64;
                put_varint(&mut self.out, (number << 1 ^ number >> 63) as u64);
            }
            Integer::Fixed32 => self.out.extend_from_slice(&(bits as u32).to_le_bytes()),
            Integer::Fixed64 => self.out.extend_from_slice(&bits.to_le_bytes()),
        }
    }

    /// The source of a number, or the text of a string that may stand for one.
    fn numeral<'t>(&self, token: &'t Token<'d>, from: usize) -> Option<Cow<'t, str>>
    where
        'd: 't,
    {
        let bytes = match token {
            Token::Text(text) => &**text,
            Token::Int(_) | Token::Double(_) => self.scanner.source(from, self.scanner.at()),
            _ => return None,
        };
        Some(String::from_utf8_lossy(bytes.trim_ascii()))
    }

    /// The integer that a number or a string stands for: `12`, `"12"`, `1.2e1`.
    fn integer(&self, token: &Token<'d>, from: usize) -> Option<i128> {
        let text = self.numeral(token, from)?;
        if let Ok(number) = text.parse() {
            return Some(number);
        }
        let number: f64 = text.parse().ok()?;
        (number.fract() == 0.0 && number.abs() < 2f64.powi(100)).then_some(number as i128)
    }

    fn double(&self, token: &Token<'d>, from: usize) -> Option<f64> {
        match token {
            Token::Null => Some(f64::NAN),
            Token::Double(number) => Some(*number),
            // read anew: an integer may be larger than 64 bits hold
            _ => self.numeral(token, from)?.parse().ok(),
        }
    }

    /// Refuses the value that began at `from`.
    #[cold]
    fn expected(&mut self, what: &str, from: usize) -> Step {
        let source = self.scanner.source(from, self.scanner.at()).trim_ascii();
        let shown = match source.first() {
            Some(b'{') => "an object".into(),
            Some(b'[') => "an array".into(),
            _ if source.len() <= MAX_SHOWN => String::from_utf8_lossy(source),
            _ => String::from_utf8_lossy(clip(source, MAX_SHOWN - 3)) + "…",
        };
        let text = format!("expected {what}, got {shown}");
        self.fail(text)
    }
}

fn kind_of(token: &Token<'_>) -> &'static str {
    match token {
        Token::Null => "null",
        Token::Bool(_) => "true or false",
        Token::Int(_) | Token::Double(_) => "a number",
        Token::Text(_) => "a string",
        Token::Array => "an array",
        Token::Object => "an object",
    }
}

/// A key as a path shows it.
fn shown_key(key: &[u8]) -> Cow<'_, str> {
    String::from_utf8_lossy(clip(key, MAX_SHOWN))
}

fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

fn hex(text: &[u8]) -> Option<Vec<u8>> {
    let digit = |byte: &u8| char::from(*byte).to_digit(16);
    text.chunks_exact(2)
        .map(|pair| Some((digit(&pair[0])? << 4 | digit(&pair[1])?) as u8))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A message that holds itself, a text, numbers, an id.
    fn schema() -> Schema {
        let field = |number, kind, repeated| Field {
            number,
            kind,
            repeated,
            takes_null: false,
        };
        let whole = |form, low, high| Kind::Integer { low, high, form };
        let fields = vec![
            field(1, Kind::Message(0), true),
            field(2, Kind::Text, false),
            field(3, whole(Integer::Fixed64, 0, u64::MAX.into()), true),
            field(
                4,
                whole(Integer::ZigZag, i32::MIN.into(), i32::MAX.into()),
                false,
            ),
            field(5, Kind::Id(2), false),
            Field {
                takes_null: true,
                ..field(6, Kind::Double, false)
            },
            field(7, Kind::Enum(vec![("A".into(), 1)]), false),
        ];
        let names = ["inner", "text", "counts", "offset", "id", "ratio", "kind"];
        let fields_of = names.iter().enumerate();
        let message = Message {
            fields: fields_of
                .map(|(index, name)| (name.as_bytes().into(), index))
                .collect(),
            nests: true,
        };
        Schema {
            messages: vec![message],
            fields,
        }
    }

    fn of(document: &str) -> Result<Vec<u8>, Error> {
        transcode(&schema(), document.as_bytes(), 1 << 20)
    }

    fn fault(document: &str) -> String {
        match of(document) {
            Err(Error::Fault { path, what, .. }) if path.is_empty() => what,
            Err(Error::Fault { path, what, .. }) => format!("{path}: {what}"),
            other => panic!("{document}: {other:?}"),
        }
    }

    #[test]
    fn members_become_fields() {
        for (document, expected) in [
            ("", &b""[..]),
            (" {} ", b""),
            (
                r#"{"text": "a", "offset": -2, "id": "aB01"}"#,
                b"\x12\x01a\x20\x03\x2a\x02\xab\x01",
            ),
            (
                r#"{"counts": ["1", 2]}"#,
                b"\x1a\x10\x01\0\0\0\0\0\0\0\x02\0\0\0\0\0\0\0",
            ),
            (
                r#"{"inner": [{"text": "a"}, null, {}]}"#,
                b"\x0a\x03\x12\x01a\x0a\0\x0a\0",
            ),
            (
                r#"{"kind": "A", "ratio": 1}"#,
                b"\x38\x01\x31\0\0\0\0\0\0\xf0\x3f",
            ),
            (
                r#"{"text": null, "other": [{"text": 1}], "id": ""}"#,
                b"\x2a\0",
            ),
        ] {
            assert_eq!(of(document).as_deref(), Ok(expected), "{document}");
        }
        assert!(
            of(r#"{"ratio": null}"#)
                .unwrap()
                .ends_with(&f64::NAN.to_le_bytes())
        );
    }

    #[test]
    fn of_a_key_that_occurs_twice_the_later_counts() {
        let document = r#"{"text": "long before", "offset": 1, "inner": [{"text": "x"}], "text": "b", "inner": [], "text": "c"}"#;
        assert_eq!(of(document).as_deref(), Ok(&b"\x20\x02\x12\x01c"[..]));
    }

    #[test]
    fn lengths_of_several_bytes() {
        let text = "x".repeat(300);
        let out = of(&format!(
            r#"{{"inner": [{{"text": "{text}"}}, {{"offset": 0}}]}}"#
        ))
        .unwrap();
        assert_eq!(out[..6], *b"\x0a\xaf\x02\x12\xac\x02");
        assert_eq!(out[306..], *b"\x0a\x02\x20\0");
    }

    #[test]
    fn faults_have_a_path() {
        for (document, expected) in [
            (
                r#"{"inner": [{}, {"id": "x"}]}"#,
                r#"inner[1].id: expected 4 hex digits, got "x""#,
            ),
            (
                r#"{"counts": [1, -1]}"#,
                "counts[1]: expected an integer from 0 to 18446744073709551615, as a number or a string, got -1",
            ),
            (
                r#"{"inner": {"text": 1}}"#,
                "inner: expected an array, got an object",
            ),
            (r#"{"text": 1}"#, "text: expected a string, got a number"),
            (
                r#"{"kind": "B"}"#,
                r#"kind: expected a number or one of A, got "B""#,
            ),
            ("[]", "expected an object, got an array"),
            (
                r#"{"text": "a}"#,
                "not JSON: expected a string that ends at byte 9",
            ),
            ("{} x", "not JSON: expected the end at byte 3"),
        ] {
            assert_eq!(fault(document), expected);
        }
        let deep = |levels: usize| {
            format!(
                "{}{{}}{}",
                r#"{"inner":["#.repeat(levels),
                "]}".repeat(levels)
            )
        };
        assert!(of(&deep(64)).is_ok());
        assert!(fault(&deep(65)).ends_with("nested too deeply: values may nest 64 levels"));
        assert!(fault(&r#"{"other":"#.repeat(1000)).ends_with("values may nest 64 levels"));
    }

    #[test]
    fn the_result_is_bounded() {
        let document = format!(r#"{{"counts": [{}0]}}"#, "0,".repeat(1000));
        let limited = |limit| transcode(&schema(), document.as_bytes(), limit);
        assert_eq!(limited(8_010).unwrap_err(), Error::TooLarge);
        assert!(limited(8_100).is_ok());
        assert_eq!(
            transcode(&schema(), b"{\"text\":\"\xff\"}", 100).unwrap_err(),
            Error::Fault {
                path: String::new(),
                what: "not JSON: invalid UTF-8 at byte 9".into(),
                offset: 9
            }
        );
    }
}
