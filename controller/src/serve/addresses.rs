//! Addresses of a cluster, whichever family they are of: pure.
//!
//! Whoever writes a Pod's arguments knows neither the address of a Service nor its family, and has Kubernetes put it in: `http://$(…_SERVICE_HOST):80`
//! is `http://fd00::a:80` then, without the brackets that belong there.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// A URL, or `host:port`, with brackets around an IPv6 address that has none. What stands behind its last colon is the port, if the rest is an
/// address.
pub(super) fn bracketed(text: &str) -> String {
    let begin = text.find("://").map_or(0, |at| at + "://".len());
    let (scheme, rest) = text.split_at(begin);
    let (host, path) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
    let is_address = |host: &str| host.parse::<Ipv6Addr>().is_ok();
    match host.rsplit_once(':') {
        Some((address, port)) if is_address(address) && port.parse::<u16>().is_ok() => {
            format!("{scheme}[{address}]:{port}{path}")
        }
        Some(_) if is_address(host) => format!("{scheme}[{host}]{path}"),
        _ => text.to_owned(),
    }
}

/// Where to listen: every IPv4 address means every address, of a Pod whose `own` is of the other family too.
pub(super) fn listening(on: SocketAddr, own: Option<IpAddr>) -> SocketAddr {
    match (on.ip(), own) {
        (IpAddr::V4(Ipv4Addr::UNSPECIFIED), Some(IpAddr::V6(_))) => {
            SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), on.port())
        }
        _ => on,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ipv6_address_gets_its_brackets() {
        for (given, meant) in [
            ("http://fd00::a:80", "http://[fd00::a]:80"),
            ("http://fd00::a:80/x:1", "http://[fd00::a]:80/x:1"),
            ("fd00:1:2:3:4:5:6:7:7072", "[fd00:1:2:3:4:5:6:7]:7072"),
            ("http://fd00:1:2:3:4:5:6:7", "http://[fd00:1:2:3:4:5:6:7]"),
            ("https://[fd00::a]:80/", "https://[fd00::a]:80/"),
            ("http://10.0.0.7:80", "http://10.0.0.7:80"),
            ("gateway.example.com:7072", "gateway.example.com:7072"),
            ("http://hearth-gateway", "http://hearth-gateway"),
            ("", ""),
        ] {
            assert_eq!(bracketed(given), meant, "{given}");
        }
    }

    #[test]
    fn a_pod_of_ipv6_listens_there() {
        let on = |text: &str| text.parse::<SocketAddr>().unwrap();
        let (old, new) = (Some("10.0.0.7".parse().unwrap()), Some("fd00::7".parse().unwrap()));
        assert_eq!(listening(on("0.0.0.0:7071"), new), on("[::]:7071"));
        for (address, own) in
            [("0.0.0.0:7071", old), ("0.0.0.0:7071", None), ("127.0.0.1:7071", new), ("[::1]:1", old)]
        {
            assert_eq!(listening(on(address), own), on(address), "{address} {own:?}");
        }
    }
}
