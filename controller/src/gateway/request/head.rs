//! The head of a request: what the gateway reads in it, and what the function sees of it.

use bytes::Bytes;
use hearth_protocol::frame::RequestId;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::request::Parts;
use http::{Request, Version};

use super::REQUEST_ID;
use crate::gateway::answer::{Story, strip_hop_by_hop};
use crate::gateway::errors::{Code, Failure};
use crate::gateway::forward::event::Added;
use crate::gateway::listener::Client;

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const FORWARDED_PREFIX: HeaderName = HeaderName::from_static("x-forwarded-prefix");

/// A valid id of the client's is kept, so that calls can be followed across systems.
pub(super) fn request_id(client: &Client, headers: &HeaderMap) -> (RequestId, HeaderValue) {
    let given = headers.get(&REQUEST_ID).map(|value| Bytes::copy_from_slice(value.as_bytes()));
    let text = given.filter(|text| RequestId::new(text.clone()).is_some());
    let text = text.unwrap_or_else(|| client.lane.request_id());
    let value = HeaderValue::from_maybe_shared(text.clone()).expect("a request id is visible ASCII");
    (RequestId::new(text).expect("hex digits are visible ASCII"), value)
}

/// HTTP/1.1 asks for exactly one host (RFC 9112, 3.2).
pub(super) fn check_host(parts: &Parts) -> Result<(), Failure> {
    let bad = |text: &'static str| Err(Failure::new(Code::BadRequest, text));
    let mut hosts = parts.headers.get_all(header::HOST).iter();
    match (hosts.next(), hosts.next()) {
        (_, Some(_)) => bad("more than one Host header"),
        (Some(host), None) if host.to_str().is_err() => bad("the Host header is not a host"),
        (None, None) if parts.version == Version::HTTP_11 && parts.uri.authority().is_none() => {
            bad("HTTP/1.1 asks for a Host header")
        }
        _ => Ok(()),
    }
}

/// The host that the request names, with its port: of the target, or of the `Host` header, which was checked.
pub(in crate::gateway) fn authority(parts: &Parts) -> &str {
    let host = || parts.headers.get(header::HOST).and_then(|host| host.to_str().ok());
    parts.uri.authority().map(http::uri::Authority::as_str).or_else(host).unwrap_or_default()
}

/// Without the port.
pub(super) fn host_of(authority: &str) -> &str {
    match authority.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => host,
        _ => authority,
    }
}

pub(super) fn wants_upgrade<B>(request: &Request<B>) -> bool {
    request.version() == Version::HTTP_11
        && request.headers().contains_key(header::UPGRADE)
        && request.headers().get_all(header::CONNECTION).iter().any(|value| {
            value
                .as_bytes()
                .split(|&byte| byte == b',')
                .any(|token| token.trim_ascii().eq_ignore_ascii_case(b"upgrade"))
        })
}

/// What the function sees of the way that the request came. Takes away what is not for it; returns what is to be added.
pub(super) fn prepare_headers(
    client: &Client,
    parts: &mut Parts,
    story: &Story,
    prefix: usize,
    upgrade: bool,
) -> Added {
    let upgrade = if upgrade { parts.headers.get(header::UPGRADE).cloned() } else { None };
    let target_host = parts.uri.authority().map(|authority| HeaderValue::from_str(authority.as_str()));
    let headers = &mut parts.headers;
    strip_hop_by_hop(headers);
    if let Some(upgrade) = upgrade {
        headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(header::UPGRADE, upgrade);
    }
    // One look at the names instead of a search for each: most requests have none of these.
    let mut host = target_host.and_then(Result::ok);
    let (mut has_host, mut has_proto, mut has_forwarded_host, mut ours) = (false, false, false, false);
    for (name, value) in &*headers {
        if name == header::HOST {
            has_host = true;
            host.get_or_insert_with(|| value.clone());
        } else if name == FORWARDED_PROTO {
            has_proto = true;
        } else if name == FORWARDED_HOST {
            has_forwarded_host = true;
        } else {
            ours |= name == FORWARDED_FOR
                || name == FORWARDED_PREFIX
                || name == REQUEST_ID
                || name == header::EXPECT;
        }
    }
    let mut forwarded_for = client.ip_value.clone();
    if ours {
        if let Some(value) = forwarded_chain(headers, &client.ip) {
            forwarded_for = value;
        }
        // Hearth's own: a client's prefix would be a lie. And hyper answers what is expected, when the body is read.
        for name in [FORWARDED_FOR, FORWARDED_PREFIX, REQUEST_ID, header::EXPECT] {
            headers.remove(name);
        }
    }
    let prefix = parts.uri.path().get(..prefix).filter(|prefix| !prefix.is_empty());
    let prefix = prefix.and_then(|prefix| HeaderValue::from_str(prefix).ok());
    [
        Some((FORWARDED_FOR, forwarded_for)),
        // Whoever stands before the gateway and ends TLS says so; the gateway itself speaks plain HTTP.
        (!has_proto).then_some((FORWARDED_PROTO, const { HeaderValue::from_static("http") })),
        host.clone().filter(|_| !has_host).map(|host| (header::HOST, host)),
        host.filter(|_| !has_forwarded_host).map(|host| (FORWARDED_HOST, host)),
        prefix.map(|prefix| (FORWARDED_PREFIX, prefix)),
        Some((REQUEST_ID, story.request_id.clone())),
    ]
}

/// The addresses that are named already, and the client's.
fn forwarded_chain(headers: &HeaderMap, ip: &str) -> Option<HeaderValue> {
    let mut chain: Vec<&[u8]> = headers.get_all(FORWARDED_FOR).iter().map(HeaderValue::as_bytes).collect();
    chain.push(ip.as_bytes());
    HeaderValue::from_maybe_shared(Bytes::from(chain.join(&b", "[..]))).ok()
}

/// What the function sees of a path that only names it: the part after its name, so that a call by name is a call as any other.
pub(super) fn below(parts: &mut Parts, prefix: usize) {
    let whole = parts.uri.path_and_query().map_or("/", http::uri::PathAndQuery::as_str);
    let rest = whole.get(prefix..).unwrap_or_default();
    let rest = if rest.starts_with('/') { rest.to_owned() } else { format!("/{rest}") };
    let mut uri = parts.uri.clone().into_parts();
    // It was a part of a valid path.
    uri.path_and_query = rest.parse().ok();
    if let Ok(uri) = http::Uri::from_parts(uri) {
        parts.uri = uri;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_function_that_is_called_by_its_name_sees_what_comes_after_it() {
        for (uri, expected) in [
            ("/function/default/hello/a/b?c=d", "/a/b?c=d"),
            ("/function/default/hello", "/"),
            ("/function/default/hello?c=d", "/?c=d"),
            ("/function/default/hello/", "/"),
            ("http://host/function/default/hello/a", "http://host/a"),
        ] {
            let (mut parts, ()) = Request::builder().uri(uri).body(()).unwrap().into_parts();
            below(&mut parts, "/function/default/hello".len());
            assert_eq!(parts.uri.to_string(), expected);
        }
    }
}
