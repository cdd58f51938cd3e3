//! The head of a call as JSON, written straight into the connection's buffer: a Function URL event (payload 2.0) or a plain request head.

use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use bytes::{BufMut, BytesMut};
use hearth_function::FunctionId;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::request::Parts;

use crate::gateway::text::decimal;

/// Headers that the gateway adds to a request: beside the client's own, so that those stay in the map that hyper made for them.
pub(in crate::gateway) type Added = [Option<(HeaderName, HeaderValue)>; 6];

/// What an event says beside the request's own head.
#[derive(Debug)]
pub(in crate::gateway) struct Context<'a> {
    pub(in crate::gateway) parts: &'a Parts,
    /// Headers that the gateway adds; none of them is among those of `parts`.
    pub(in crate::gateway) added: &'a Added,
    pub(in crate::gateway) function: &'a FunctionId,
    pub(in crate::gateway) request_id: &'a str,
    /// The client's address without port, as text.
    pub(in crate::gateway) source_ip: &'a str,
    /// Address and port.
    pub(in crate::gateway) peer: &'a str,
    /// `Host`, or the authority of an absolute or HTTP/2 target.
    pub(in crate::gateway) authority: &'a str,
    pub(in crate::gateway) time: SystemTime,
}

/// What of the body is in the event.
#[derive(Debug, Clone, Copy)]
pub(in crate::gateway) enum EventBody<'a> {
    /// There is none.
    None,
    /// All of it.
    Whole(&'a [u8]),
    /// It follows in frames; the instance fills it in.
    Follows,
}

/// Writes the event.
pub(in crate::gateway) fn write_event(out: &mut BytesMut, context: &Context<'_>, body: EventBody<'_>) {
    let Context { parts, .. } = context;
    let (path, query) = (parts.uri.path(), parts.uri.query().unwrap_or_default());
    out.reserve(1024);
    put(out, "{\"version\":\"2.0\",\"routeKey\":\"$default\",\"rawPath\":");
    string(out, path.as_bytes());
    put(out, ",\"rawQueryString\":");
    string(out, query.as_bytes());
    cookies(out, &parts.headers);
    put(out, ",\"headers\":{");
    joined_headers(out, context);
    put(out, "}");
    query_parameters(out, query);
    request_context(out, context, path);
    match body {
        EventBody::None => put(out, ",\"isBase64Encoded\":false}"),
        EventBody::Follows => {
            put(out, ",\"body\":null,\"isBase64Encoded\":");
            put(out, if is_text(&parts.headers) { "false}" } else { "true}" });
        }
        EventBody::Whole(bytes) => {
            put(out, ",\"body\":");
            let text = if is_text(&parts.headers) { std::str::from_utf8(bytes).ok() } else { None };
            match text {
                Some(text) => {
                    string(out, text.as_bytes());
                    put(out, ",\"isBase64Encoded\":false}");
                }
                None => {
                    put(out, "\"");
                    base64(out, bytes);
                    put(out, "\",\"isBase64Encoded\":true}");
                }
            }
        }
    }
}

/// Writes a [`hearth_protocol::RequestHead`].
pub(in crate::gateway) fn write_request_head(out: &mut BytesMut, context: &Context<'_>) {
    let Context { parts, .. } = context;
    out.reserve(1024);
    put(out, "{\"method\":");
    string(out, parts.method.as_str().as_bytes());
    put(out, ",\"target\":");
    let target = parts.uri.path_and_query().map_or("/", http::uri::PathAndQuery::as_str);
    string(out, target.as_bytes());
    put(out, ",\"authority\":");
    string(out, context.authority.as_bytes());
    put(out, ",\"scheme\":\"http\",\"headers\":[");
    let mut separator = "";
    let added = context.added.iter().flatten().map(|(name, value)| (name, value));
    for (name, value) in parts.headers.iter().chain(added) {
        put(out, separator);
        put(out, "[");
        string(out, name.as_str().as_bytes());
        put(out, ",");
        latin1(out, value.as_bytes());
        put(out, "]");
        separator = ",";
    }
    put(out, "],\"peer\":");
    string(out, context.peer.as_bytes());
    put(out, "}");
}

/// Whether a body of this content type goes into the event as text (if it is UTF-8); everything else is base64, forms too, as in Lambda.
/// Without a content type, text is what people type.
fn is_text(headers: &HeaderMap) -> bool {
    let Some(kind) = headers.get(header::CONTENT_TYPE) else { return true };
    let kind = kind.as_bytes();
    let end = kind.iter().position(|&byte| byte == b';').unwrap_or(kind.len());
    let kind = kind.get(..end).unwrap_or_default().trim_ascii().to_ascii_lowercase();
    kind.starts_with(b"text/")
        || kind.ends_with(b"+json")
        || kind.ends_with(b"+xml")
        || matches!(
            kind.as_slice(),
            b"application/json" | b"application/xml" | b"application/javascript" | b"application/graphql"
        )
}

/// `cookies`: each cookie of each `Cookie` header; left out when there is none.
fn cookies(out: &mut BytesMut, headers: &HeaderMap) {
    let mut separator = ",\"cookies\":[";
    for value in headers.get_all(header::COOKIE) {
        for cookie in value.as_bytes().split(|&byte| byte == b';') {
            let cookie = cookie.trim_ascii();
            if !cookie.is_empty() {
                put(out, separator);
                text(out, cookie);
                separator = ",";
            }
        }
    }
    if separator == "," {
        put(out, "]");
    }
}

/// Header names are in lower case already; the values of one name are joined by commas (cookies by semicolons: RFC 6265, 5.4).
fn joined_headers(out: &mut BytesMut, context: &Context<'_>) {
    let headers = &context.parts.headers;
    let mut separator = "";
    let mut member = |out: &mut BytesMut, name: &HeaderName, value: &[u8]| {
        put(out, separator);
        separator = ",";
        // A name has nothing to escape.
        put(out, "\"");
        put(out, name.as_str());
        put(out, "\":");
        text(out, value);
    };
    if headers.len() == headers.keys_len() {
        for (name, value) in headers {
            member(out, name, value.as_bytes());
        }
    } else {
        for name in headers.keys() {
            let separator: &[u8] = if name == header::COOKIE { b"; " } else { b"," };
            let values: Vec<&[u8]> = headers.get_all(name).iter().map(HeaderValue::as_bytes).collect();
            member(out, name, &values.join(separator));
        }
    }
    for (name, value) in context.added.iter().flatten() {
        member(out, name, value.as_bytes());
    }
}

/// `queryStringParameters`: decoded, values of one name joined by commas, in the order of their first mention; left out without a query.
fn query_parameters(out: &mut BytesMut, query: &str) {
    if query.is_empty() {
        return;
    }
    let mut pairs: Vec<(Vec<u8>, Vec<u8>)> = Vec::new();
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let (name, value) = (percent_decode(name), percent_decode(value));
        match pairs.iter_mut().find(|(known, _)| *known == name) {
            Some((_, values)) => {
                values.push(b',');
                values.extend_from_slice(&value);
            }
            None => pairs.push((name, value)),
        }
    }
    let mut separator = ",\"queryStringParameters\":{";
    for (name, value) in &pairs {
        put(out, separator);
        text(out, name);
        put(out, ":");
        text(out, value);
        separator = ",";
    }
    if !pairs.is_empty() {
        put(out, "}");
    }
}

/// As browsers encode forms: `+` is a space, `%41` is `A`; what is no valid escape stays as it is.
fn percent_decode(text: &str) -> Vec<u8> {
    let hex = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let mut decoded = Vec::with_capacity(text.len());
    let mut bytes = text.as_bytes();
    while let [first, rest @ ..] = bytes {
        bytes = rest;
        match (first, rest) {
            (b'+', _) => decoded.push(b' '),
            (b'%', [high, low, after @ ..]) if hex(*high).is_some() && hex(*low).is_some() => {
                decoded.push(hex(*high).unwrap_or_default() << 4 | hex(*low).unwrap_or_default());
                bytes = after;
            }
            (byte, _) => decoded.push(*byte),
        }
    }
    decoded
}

fn request_context(out: &mut BytesMut, context: &Context<'_>, path: &str) {
    let Context { parts, function, request_id, source_ip, authority, time, .. } = context;
    let domain = authority.rsplit_once(':').map_or(*authority, |(host, port)| {
        if port.bytes().all(|byte| byte.is_ascii_digit()) { host } else { authority }
    });
    put(out, ",\"requestContext\":{\"accountId\":\"anonymous\",\"apiId\":");
    string(out, function.name().as_bytes());
    put(out, ",\"authentication\":null,\"domainName\":");
    string(out, domain.as_bytes());
    put(out, ",\"domainPrefix\":");
    string(out, domain.split('.').next().unwrap_or_default().as_bytes());
    put(out, ",\"http\":{\"method\":");
    string(out, parts.method.as_str().as_bytes());
    put(out, ",\"path\":");
    string(out, path.as_bytes());
    put(
        out,
        if parts.version == http::Version::HTTP_2 {
            ",\"protocol\":\"HTTP/2\""
        } else {
            ",\"protocol\":\"HTTP/1.1\""
        },
    );
    put(out, ",\"sourceIp\":");
    string(out, source_ip.as_bytes());
    put(out, ",\"userAgent\":");
    text(out, parts.headers.get(header::USER_AGENT).map(HeaderValue::as_bytes).unwrap_or_default());
    put(out, "},\"requestId\":");
    string(out, request_id.as_bytes());
    put(out, ",\"routeKey\":\"$default\",\"stage\":\"$default\",\"time\":\"");
    let since_epoch = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    common_log_time(out, since_epoch.as_secs());
    put(out, "\",\"timeEpoch\":");
    number(out, u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX));
    put(out, "}");
}

/// `05/Aug/2022:08:14:39 +0000`.
fn common_log_time(out: &mut BytesMut, seconds: u64) {
    const MONTHS: [&str; 12] =
        ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    // Civil date from days (H. Hinnant, "chrono-compatible low-level date algorithms"), for days after 1970.
    let (days, of_day) = (seconds / 86_400, seconds % 86_400);
    let shifted = days + 719_468;
    let (era, of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 2 } else { month_from_march - 10 };
    let year = year_of_era + era * 400 + u64::from(month < 2);
    two(out, day);
    put(out, "/");
    put(out, MONTHS.get(usize::try_from(month).unwrap_or_default()).copied().unwrap_or("Jan"));
    put(out, "/");
    number(out, year);
    for part in [of_day / 3600, of_day / 60 % 60, of_day % 60] {
        put(out, ":");
        two(out, part);
    }
    put(out, " +0000");
}

fn two(out: &mut BytesMut, value: u64) {
    if value < 10 {
        put(out, "0");
    }
    number(out, value);
}

fn number(out: &mut BytesMut, value: u64) {
    let (digits, at) = decimal(value, 1);
    out.extend_from_slice(digits.get(at..).unwrap_or_default());
}

fn put(out: &mut BytesMut, text: &str) {
    out.extend_from_slice(text.as_bytes());
}

fn base64(out: &mut BytesMut, bytes: &[u8]) {
    let length = bytes.len().div_ceil(3) * 4;
    let start = out.len();
    out.resize(start + length, 0);
    let target = out.get_mut(start..).unwrap_or_default();
    base64::engine::general_purpose::STANDARD
        .encode_slice(bytes, target)
        .expect("four characters for every three bytes were made room for");
}

/// A JSON string of bytes from a client: UTF-8 as it is; otherwise each byte is a character (ISO 8859-1, as HTTP once said).
fn text(out: &mut BytesMut, bytes: &[u8]) {
    if bytes.is_ascii() || std::str::from_utf8(bytes).is_ok() {
        string(out, bytes)
    } else {
        latin1(out, bytes)
    }
}

/// A JSON string in which each byte is one character.
fn latin1(out: &mut BytesMut, bytes: &[u8]) {
    if bytes.is_ascii() {
        return string(out, bytes);
    }
    let text: String = bytes.iter().map(|&byte| char::from(byte)).collect();
    string(out, text.as_bytes());
}

/// A JSON string of valid UTF-8.
fn string(out: &mut BytesMut, bytes: &[u8]) {
    out.reserve(bytes.len() + 2);
    out.put_u8(b'"');
    let mut rest = bytes;
    // Runs without anything to escape are copied whole.
    while let Some(at) = rest.iter().position(|&byte| byte < 0x20 || byte == b'"' || byte == b'\\') {
        let (run, tail) = rest.split_at(at);
        out.extend_from_slice(run);
        let Some((&byte, after)) = tail.split_first() else { break };
        match byte {
            b'"' => put(out, "\\\""),
            b'\\' => put(out, "\\\\"),
            b'\n' => put(out, "\\n"),
            b'\r' => put(out, "\\r"),
            b'\t' => put(out, "\\t"),
            _ => {
                const HEX: &[u8; 16] = b"0123456789abcdef";
                put(out, "\\u00");
                out.put_u8(HEX[usize::from(byte >> 4)]);
                out.put_u8(HEX[usize::from(byte & 15)]);
            }
        }
        rest = after;
    }
    out.extend_from_slice(rest);
    out.put_u8(b'"');
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::{Value, json};

    use super::*;

    fn event(request: http::request::Builder, body: EventBody<'_>) -> Value {
        let (parts, ()) = request.body(()).unwrap().into_parts();
        let function = FunctionId::parse("default/hello").unwrap();
        let context = Context {
            parts: &parts,
            added: &[const { None }; 6],
            function: &function,
            request_id: "r1",
            source_ip: "192.0.2.1",
            peer: "192.0.2.1:4711",
            authority: "hello.example.com:8080",
            time: UNIX_EPOCH + Duration::from_millis(1_659_687_279_885),
        };
        let mut out = BytesMut::new();
        write_event(&mut out, &context, body);
        serde_json::from_slice(&out)
            .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&out)))
    }

    #[test]
    fn a_get_is_the_documented_event() {
        let request = http::Request::get("/hello/a%20b?x=1&y=%41+b&x=2&flag")
            .header("user-agent", "agent")
            .header("accept", "a")
            .header("accept", "b")
            .header("cookie", "one=1; two=2")
            .header("x-odd", http::HeaderValue::from_bytes(b"\xe9\"\t").unwrap());
        let expected = json!({
            "version": "2.0", "routeKey": "$default",
            "rawPath": "/hello/a%20b", "rawQueryString": "x=1&y=%41+b&x=2&flag",
            "cookies": ["one=1", "two=2"],
            "headers": {"user-agent": "agent", "accept": "a,b", "cookie": "one=1; two=2", "x-odd": "é\"\t"},
            "queryStringParameters": {"x": "1,2", "y": "A b", "flag": ""},
            "requestContext": {
                "accountId": "anonymous", "apiId": "hello", "authentication": null,
                "domainName": "hello.example.com", "domainPrefix": "hello",
                "http": {"method": "GET", "path": "/hello/a%20b", "protocol": "HTTP/1.1",
                         "sourceIp": "192.0.2.1", "userAgent": "agent"},
                "requestId": "r1", "routeKey": "$default", "stage": "$default",
                "time": "05/Aug/2022:08:14:39 +0000", "timeEpoch": 1_659_687_279_885_u64,
            },
            "isBase64Encoded": false,
        });
        assert_eq!(event(request, EventBody::None), expected);
    }

    #[test]
    fn a_body_is_text_or_base64_by_its_type() {
        let post = |kind: &str| http::Request::post("/").header("content-type", kind);
        let cases: [(&str, &[u8], &str, bool); 5] = [
            ("application/json", b"{\"a\":\"\\\"\"}", "{\"a\":\"\\\"\"}", false),
            ("text/plain; charset=utf-8", "é\u{1}".as_bytes(), "é\u{1}", false),
            ("text/plain", b"\xff", "/w==", true),
            ("application/octet-stream", b"abc", "YWJj", true),
            ("application/problem+JSON", b"x", "x", false),
        ];
        for (kind, bytes, expected, base64) in cases {
            let event = event(post(kind), EventBody::Whole(bytes));
            assert_eq!(event["body"], expected, "{kind}");
            assert_eq!(event["isBase64Encoded"], base64, "{kind}");
        }
        let follows = event(post("image/png"), EventBody::Follows);
        assert_eq!((&follows["body"], &follows["isBase64Encoded"]), (&Value::Null, &json!(true)));
    }

    #[test]
    fn dates_are_right_at_their_edges() {
        let time = |seconds| {
            let mut out = BytesMut::new();
            common_log_time(&mut out, seconds);
            String::from_utf8(out.to_vec()).unwrap()
        };
        assert_eq!(time(0), "01/Jan/1970:00:00:00 +0000");
        assert_eq!(time(951_782_399), "28/Feb/2000:23:59:59 +0000");
        assert_eq!(time(951_782_400), "29/Feb/2000:00:00:00 +0000");
        assert_eq!(time(4_102_444_799), "31/Dec/2099:23:59:59 +0000");
    }

    #[test]
    fn a_request_head_is_what_the_protocol_says() {
        let request =
            http::Request::get("/a?b=c").header("x", http::HeaderValue::from_bytes(b"\xe9").unwrap());
        let (parts, ()) = request.body(()).unwrap().into_parts();
        let function = FunctionId::parse("default/hello").unwrap();
        let context = Context {
            parts: &parts,
            added: &[const { None }; 6],
            function: &function,
            request_id: "r1",
            source_ip: "192.0.2.1",
            peer: "192.0.2.1:4711",
            authority: "h",
            time: UNIX_EPOCH,
        };
        let mut out = BytesMut::new();
        write_request_head(&mut out, &context);
        let head: hearth_protocol::RequestHead = serde_json::from_slice(&out).unwrap();
        assert_eq!(
            (head.target.as_str(), head.authority.as_str(), head.peer.as_str()),
            ("/a?b=c", "h", "192.0.2.1:4711")
        );
        assert_eq!(head.headers, [("x".to_owned(), "é".to_owned())]);
    }
}
