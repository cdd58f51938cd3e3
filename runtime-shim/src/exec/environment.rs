//! The environment of a call's process: the instance's own, the function's, and the request as CGI (RFC 3875) has it.
//!
//! | variable | what |
//! |---|---|
//! | `REQUEST_METHOD`, `REQUEST_URI`, `PATH_INFO`, `QUERY_STRING` | `POST`, `/a%20b?c=d`, `/a b`, `c=d` |
//! | `CONTENT_TYPE`, `CONTENT_LENGTH` | of the body, where the client said them |
//! | `HTTP_…` | each other header, upper case, `-` as `_`; several of one name joined with `, `. Never `HTTP_PROXY`: programs take that for a setting |
//! | `SERVER_NAME`, `SERVER_PORT`, `SERVER_PROTOCOL`, `REQUEST_SCHEME`, `GATEWAY_INTERFACE`, `SERVER_SOFTWARE`, `SCRIPT_NAME` | |
//! | `REMOTE_ADDR`, `REMOTE_PORT` | the client |
//! | `HEARTH_REQUEST_ID`, `HEARTH_DEADLINE_MS` | the call; milliseconds it may run |

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;

use hearth_protocol::RequestHead;

/// The variables of one request.
pub(super) fn of(head: &RequestHead, request_id: &str, deadline_ms: u32) -> BTreeMap<String, OsString> {
    let mut env: BTreeMap<String, OsString> = BTreeMap::new();
    let (path, query) = head.target.split_once('?').unwrap_or((&head.target, ""));
    let (host, port) = split_port(&head.authority);
    let usual_port = if head.scheme == "https" { "443" } else { "80" };
    let (client, client_port) = split_port(&head.peer);
    let texts = [
        ("GATEWAY_INTERFACE", "CGI/1.1"),
        ("SERVER_SOFTWARE", "hearth"),
        ("SERVER_PROTOCOL", "HTTP/1.1"),
        ("SERVER_NAME", host),
        ("SERVER_PORT", port.unwrap_or(usual_port)),
        ("REQUEST_SCHEME", &head.scheme),
        ("REQUEST_METHOD", &head.method),
        ("REQUEST_URI", &head.target),
        ("SCRIPT_NAME", ""),
        ("QUERY_STRING", query),
        ("REMOTE_ADDR", client),
        ("REMOTE_PORT", client_port.unwrap_or("")),
        ("HEARTH_REQUEST_ID", request_id),
    ];
    env.extend(texts.map(|(name, value)| (name.to_owned(), value.into())));
    env.insert("PATH_INFO".to_owned(), OsString::from_vec(decode_percent(path)));
    if deadline_ms > 0 {
        env.insert("HEARTH_DEADLINE_MS".to_owned(), deadline_ms.to_string().into());
    }
    if head.scheme == "https" {
        env.insert("HTTPS".to_owned(), "on".into());
    }
    for (name, value) in &head.headers {
        let variable = match name.as_str() {
            "proxy" => continue,
            "content-type" => "CONTENT_TYPE".to_owned(),
            "content-length" => "CONTENT_LENGTH".to_owned(),
            name => format!("HTTP_{}", name.to_ascii_uppercase().replace('-', "_")),
        };
        let value = OsString::from_vec(latin1(value));
        env.entry(variable)
            .and_modify(|first| {
                first.push(", ");
                first.push(&value);
            })
            .or_insert(value);
    }
    // What the kernel cannot pass is left out.
    env.retain(|name, value| !name.contains(['=', '\0']) && !value.as_encoded_bytes().contains(&0));
    env
}

/// Host and port of `host:port`, `[v6]:port`, `host`.
fn split_port(authority: &str) -> (&str, Option<&str>) {
    match authority.rsplit_once(':') {
        Some((host, port)) if !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit()) => {
            (host.trim_start_matches('[').trim_end_matches(']'), Some(port))
        }
        _ => (authority, None),
    }
}

/// Each character of a header's value is one byte.
fn latin1(value: &str) -> Vec<u8> {
    value.chars().map(|character| u8::try_from(character).unwrap_or(b'?')).collect()
}

fn decode_percent(path: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(path.len());
    let mut rest = path.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        let hex = |digit: u8| char::from(digit).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
        if let ([high, low, ..], b'%') = (after, byte)
            && let (Some(high), Some(low)) = (hex(*high), hex(*low))
        {
            out.push(high << 4 | low);
            rest = &after[2..];
        } else {
            out.push(byte);
            rest = after;
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_seen_as_cgi_has_it() {
        let header = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let head = RequestHead {
            method: "POST".to_owned(),
            target: "/a%20b%zz?c=%20".to_owned(),
            authority: "hearth.test:8080".to_owned(),
            scheme: "http".to_owned(),
            headers: vec![
                header("content-type", "text/plain"),
                header("x-two", "1"),
                header("x-two", "\u{e9}"),
                header("proxy", "evil"),
            ],
            peer: "[::1]:4711".to_owned(),
        };
        let env = of(&head, "r-1", 5);
        let get = |name: &str| env.get(name).map(|value| value.as_encoded_bytes().to_vec());
        let text = |value: &str| Some(value.as_bytes().to_vec());
        assert_eq!(get("PATH_INFO"), text("/a b%zz"));
        assert_eq!(get("QUERY_STRING"), text("c=%20"));
        assert_eq!(get("REQUEST_URI"), text("/a%20b%zz?c=%20"));
        assert_eq!((get("SERVER_NAME"), get("SERVER_PORT")), (text("hearth.test"), text("8080")));
        assert_eq!((get("REMOTE_ADDR"), get("REMOTE_PORT")), (text("::1"), text("4711")));
        assert_eq!(get("CONTENT_TYPE"), text("text/plain"));
        assert_eq!(get("HTTP_X_TWO"), Some(b"1, \xe9".to_vec()));
        assert_eq!((get("HTTP_PROXY"), get("HTTPS")), (None, None));
        assert_eq!(get("HEARTH_REQUEST_ID"), text("r-1"));
    }
}
