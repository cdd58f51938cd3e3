//! Who gets in: the checks on every request before anything else looks at it.
//!
//! A page in the operator's browser can send requests to loopback. It cannot know the token, but checks that cost nothing stop it
//! earlier: a name that an attacker's DNS points here (rebinding) is not among ours, and a request that a page makes has an `Origin`.

use http::{HeaderMap, Request, header};

use super::failure::Failure;
use super::identity::Token;

/// Where the token is looked for beside `Authorization`: a proxy between, as that of a cluster's API server, keeps that header to itself.
pub const TOKEN_HEADER: &str = "x-hearth-token";

/// Decides who gets in.
#[derive(Debug, Clone)]
pub struct Guard {
    token: Token,
    /// Host names beside `localhost` under which this server may be called, lower-case.
    names: Vec<String>,
}

impl Guard {
    /// Admits clients that know `token` and call by an address, `localhost` or one of `names`.
    #[must_use]
    pub fn new(token: Token, names: &[String]) -> Self {
        Self { token, names: names.iter().map(|name| name.to_ascii_lowercase()).collect() }
    }

    /// Whether the request was meant for this server.
    ///
    /// # Errors
    /// The answer for one that was not.
    pub fn check_host<B>(&self, request: &Request<B>) -> Result<(), Failure> {
        let authority = request
            .uri()
            .authority()
            .map(http::uri::Authority::as_str)
            .or_else(|| request.headers().get(header::HOST).and_then(|host| host.to_str().ok()));
        let Some(authority) = authority else {
            return Err(Failure::bad_request("the request names no host"));
        };
        if !self.is_ours(host_of(authority)) {
            return Err(Failure::forbidden(format!(
                "this server is not {authority:?}: call it by an address or as localhost, or list the name in management.names"
            )));
        }
        match request.headers().get(header::ORIGIN) {
            None => Ok(()),
            Some(origin) if origin.as_bytes() == format!("https://{authority}").as_bytes() => Ok(()),
            Some(_) => Err(Failure::forbidden("requests of other sites' pages are not answered".to_owned())),
        }
    }

    /// Whether the request carries the token.
    ///
    /// # Errors
    /// The answer for one that does not.
    pub fn check_token(&self, headers: &HeaderMap) -> Result<(), Failure> {
        let offered = headers
            .get(header::AUTHORIZATION)
            .map(http::HeaderValue::as_bytes)
            .and_then(|value| value.split_at_checked(7))
            .filter(|(scheme, _)| scheme.eq_ignore_ascii_case(b"bearer "))
            .map(|(_, token)| token);
        let offered = headers.get(TOKEN_HEADER).map(http::HeaderValue::as_bytes).or(offered);
        match offered {
            Some(token) if self.token.admits(token) => Ok(()),
            Some(_) => Err(Failure::unauthorized(
                "the token is not the one of this server: use the kubeconfig in its data directory",
            )),
            None => Err(Failure::unauthorized(
                "no bearer token: use the kubeconfig in the server's data directory",
            )),
        }
    }

    /// An address cannot be rebound, so any will do; a name must be known.
    fn is_ours(&self, host: &str) -> bool {
        let host = host.trim_end_matches('.').to_ascii_lowercase();
        let address = host.strip_prefix('[').and_then(|inner| inner.strip_suffix(']')).unwrap_or(&host);
        host == "localhost" || address.parse::<std::net::IpAddr>().is_ok() || self.names.contains(&host)
    }
}

/// The host of `host:port`, with the brackets of an IPv6 address.
fn host_of(authority: &str) -> &str {
    let end = authority.rfind(']').map_or(0, |bracket| bracket + 1);
    match authority.get(end..).and_then(|rest| rest.find(':')) {
        Some(colon) => authority.get(..end + colon).unwrap_or(authority),
        None => authority,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::identity::Identity;

    fn guard() -> (Guard, String) {
        let directory = tempfile::tempdir().unwrap();
        let identity = Identity::open(directory.path()).unwrap();
        let token = std::fs::read_to_string(directory.path().join("token")).unwrap();
        (Guard::new(identity.token, &["Hearth.lan".to_owned()]), token)
    }

    fn request(host: &str, origin: Option<&str>) -> Request<()> {
        let mut request = Request::builder().uri("/apis").header("host", host);
        if let Some(origin) = origin {
            request = request.header("origin", origin);
        }
        request.body(()).unwrap()
    }

    #[test]
    fn addresses_and_known_names_are_ours() {
        let (guard, _) = guard();
        for host in [
            "127.0.0.1:7070",
            "[::1]:7070",
            "localhost",
            "LOCALHOST:7070",
            "hearth.lan:7070",
            "10.1.2.3",
            "localhost.:1",
        ] {
            assert!(guard.check_host(&request(host, None)).is_ok(), "{host}");
        }
        for host in ["evil.example", "127.0.0.1.evil.example:7070", "localhost.evil.example", ""] {
            let refused = guard.check_host(&request(host, None)).unwrap_err();
            assert_eq!(refused.code().as_u16(), 403, "{host}");
        }
    }

    #[test]
    fn a_page_of_another_site_is_refused() {
        let (guard, _) = guard();
        assert!(guard.check_host(&request("localhost:7070", Some("https://localhost:7070"))).is_ok());
        for origin in ["https://evil.example", "http://localhost:7070", "null", "https://localhost:8080"] {
            assert!(guard.check_host(&request("localhost:7070", Some(origin))).is_err(), "{origin}");
        }
    }

    #[test]
    fn without_the_token_nobody_gets_in() {
        let (guard, token) = guard();
        let with = |value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert("authorization", value.parse().unwrap());
            guard.check_token(&headers).map_err(|refused| refused.code().as_u16())
        };
        assert_eq!(with(&format!("Bearer {token}")), Ok(()));
        assert_eq!(with(&format!("bearer {token}")), Ok(()));
        for wrong in ["Bearer ", "Bearer x", "Basic abc", "", &format!("Bearer {token}x"), &token] {
            assert_eq!(with(wrong), Err(401), "{wrong}");
        }
        assert!(guard.check_token(&HeaderMap::new()).is_err());
        let mut beside = HeaderMap::new();
        beside.insert("authorization", "Bearer of-the-proxy".parse().unwrap());
        beside.insert(TOKEN_HEADER, token.parse().unwrap());
        assert!(guard.check_token(&beside).is_ok());
    }
}
