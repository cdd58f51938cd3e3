//! The engine's network for instances that may reach the outside: on a bridge of Hearth's own, so that what may pass is the same as on the
//! embedded backend. The engine connects containers to it and gives them addresses.

use std::collections::HashMap;
use std::net::Ipv4Addr;

use bollard::Docker;
use bollard::errors::Error;
use bollard::models::{Ipam, IpamConfig, NetworkCreateRequest, NetworkInspect};
use bollard::query_parameters::InspectNetworkOptions;

use super::container::DATA;
use super::engine::{plain, status};
use crate::backend::local::blocking;
use crate::backend::local::network::addresses::PREFIX;
use crate::backend::local::network::{choose, netmask, way_out_mtu};

/// The name of the bridge: at most 15 characters. Not the embedded backend's, which may have had the same data directory.
pub(super) fn bridge(tag: &str) -> String {
    format!("hearthd{tag}")
}

/// The name of the engine's network.
pub(super) fn name(tag: &str) -> String {
    format!("hearth-{tag}")
}

/// Makes the engine's network, or takes over the one that is there; and says which address the bridge has on it.
///
/// Before the bridge: Podman makes no network of a subnet that an interface has already. Docker makes the bridge with its network, Podman
/// uses one that is there.
///
/// # Errors
/// What the engine says, or that no subnet is free.
pub(super) async fn ensure(api: &Docker, tag: &str) -> Result<Ipv4Addr, String> {
    let name = name(tag);
    match api.inspect_network(&name, None::<InspectNetworkOptions>).await {
        Ok(network) => {
            if let Some(gateway) = gateway(&network) {
                return Ok(gateway);
            }
            // Somebody else's by that name, or an engine that does not tell.
            api.remove_network(&name).await.map_err(|error| plain(&error))?;
        }
        Err(error) if status(&error) == Some(404) => {}
        Err(error) => return Err(plain(&error)),
    }
    let (gateway, mtu) = blocking(|| (choose(), way_out_mtu())).await;
    let gateway = gateway.map_err(|error| error.to_string())?;
    api.create_network(request(tag, gateway, mtu)).await.map_err(|error| plain(&error))?;
    Ok(gateway)
}

/// Takes the engine's network away; one that is gone is no error.
///
/// # Errors
/// What the engine says; among others that a container is still on it.
pub(super) async fn remove(api: &Docker, tag: &str) -> Result<(), Error> {
    match api.remove_network(&name(tag)).await {
        Err(error) if status(&error) != Some(404) => Err(error),
        _ => Ok(()),
    }
}

/// The bridge's address on it.
fn gateway(network: &NetworkInspect) -> Option<Ipv4Addr> {
    let configs = network.ipam.as_ref()?.config.as_ref()?;
    configs.iter().find_map(|config| config.gateway.as_deref()?.parse().ok())
}

fn request(tag: &str, gateway: Ipv4Addr, mtu: u32) -> NetworkCreateRequest {
    let subnet = Ipv4Addr::from_bits(gateway.to_bits() & netmask(PREFIX));
    let (bridge, mtu) = (bridge(tag), mtu.to_string());
    let options = [
        ("com.docker.network.bridge.name", bridge.as_str()),
        ("com.docker.network.driver.mtu", mtu.as_str()),
        // The bridge's own rules say the same, where the kernel's bridges do not ask the engine's.
        ("com.docker.network.bridge.enable_icc", "false"),
        // The bridge's own rules do it.
        ("com.docker.network.bridge.enable_ip_masquerade", "false"),
    ];
    NetworkCreateRequest {
        name: name(tag),
        driver: Some("bridge".to_owned()),
        ipam: Some(Ipam {
            config: Some(vec![IpamConfig {
                subnet: Some(format!("{subnet}/{PREFIX}")),
                gateway: Some(gateway.to_string()),
                ..IpamConfig::default()
            }]),
            ..Ipam::default()
        }),
        enable_ipv6: Some(false),
        options: Some(options.map(|(key, value)| (key.to_owned(), value.to_owned())).into()),
        labels: Some(HashMap::from([(DATA.to_owned(), tag.to_owned())])),
        ..NetworkCreateRequest::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_is_on_our_bridge_and_keeps_containers_apart() {
        let asked = request("0a1b2c3d", Ipv4Addr::new(10, 213, 0, 1), 1400);
        let options = asked.options.unwrap();
        assert_eq!(options["com.docker.network.bridge.name"], "hearthd0a1b2c3d");
        assert!(options["com.docker.network.bridge.name"].len() <= 15);
        assert_eq!(options["com.docker.network.bridge.enable_icc"], "false");
        let config = asked.ipam.unwrap().config.unwrap().remove(0);
        assert_eq!(config.subnet.as_deref(), Some("10.213.0.0/20"));
        let inspected = NetworkInspect {
            ipam: Some(Ipam { config: Some(vec![config]), ..Ipam::default() }),
            ..NetworkInspect::default()
        };
        assert_eq!(gateway(&inspected), Some(Ipv4Addr::new(10, 213, 0, 1)));
    }
}
