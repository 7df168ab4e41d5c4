//! Inputs as text, one thing a line: a record, and an HTTP request.

use axum::{
    body::Body,
    http::{HeaderName, HeaderValue, Method, Request, Uri},
};
use contract::Record;

/// The first line, and what follows it.
pub fn first(bytes: &[u8]) -> (&[u8], Option<&[u8]>) {
    match bytes.iter().position(|byte| *byte == b'\n') {
        Some(end) => (&bytes[..end], Some(&bytes[end + 1..])),
        None => (bytes, None),
    }
}

/// Lines up to an empty one, then whatever it is; nothing where there is no empty line.
fn head(bytes: &[u8]) -> (Vec<&[u8]>, Option<&[u8]>) {
    let (mut lines, mut left) = (Vec::new(), Some(bytes));
    while let Some(rest) = left {
        let (line, after) = first(rest);
        if line.is_empty() && after.is_some() {
            return (lines, after);
        }
        lines.push(line);
        left = after;
    }
    (lines, None)
}

fn named(line: &[u8]) -> Option<(&[u8], &[u8])> {
    let at = line.windows(2).position(|two| two == b": ")?;
    Some((&line[..at], &line[at + 2..]))
}

/// `name: value` is a header, any other line the key, what follows an empty line the value.
pub fn record(bytes: &[u8]) -> Record {
    let (lines, value) = head(bytes);
    let mut record = Record { value: value.map(<[u8]>::to_vec), ..Record::default() };
    for line in lines {
        match named(line) {
            Some((name, value)) => record.headers.push((String::from_utf8_lossy(name).into_owned(), value.to_vec())),
            None => record.key = Some(line.to_vec()),
        }
    }
    record
}

/// `METHOD path`, headers, an empty line and the body; `None` for what no HTTP client could send.
pub fn request(bytes: &[u8]) -> Option<Request<Body>> {
    let (lines, body) = head(bytes);
    let mut lines = lines.into_iter();
    let asked = std::str::from_utf8(lines.next()?).ok()?;
    let (method, path) = asked.split_once(' ')?;
    let uri: Uri = path.parse().ok().filter(|uri: &Uri| uri.path().starts_with('/'))?;
    let mut request = Request::builder().method(Method::from_bytes(method.as_bytes()).ok()?).uri(uri);
    for line in lines {
        let (name, value) = named(line)?;
        request = request.header(HeaderName::from_bytes(name).ok()?, HeaderValue::from_bytes(value).ok()?);
    }
    request.body(body.map_or_else(Body::empty, |body| Body::from(body.to_vec()))).ok()
}
