//! A gateway in a cluster: its configuration, made into [`edge::Edge`].

use std::net::{Ipv4Addr, SocketAddr};

use tokio_util::sync::CancellationToken;

use super::super::addresses;
use super::super::config::{Effective, Source};
use super::{Error, Key, client, own_address, pod, this_process};
use crate::edge::{self, Edge};

/// Where functions answer, and probes, if nothing else is said: nobody but this Pod is on its addresses.
const LISTEN: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::UNSPECIFIED), 8080);
const MANAGEMENT: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::UNSPECIFIED), 7070);

/// Runs a gateway until `stop`; once `hurry` is cancelled, running requests are not waited for.
///
/// # Errors
/// When it cannot begin, or a part has failed.
pub async fn gateway(
    effective: Effective,
    stop: CancellationToken,
    hurry: CancellationToken,
) -> Result<(), Error> {
    let is_default = |key: &str| {
        effective.entries().any(|(option, source)| option.key == key && *source == Source::Default)
    };
    let listen = if is_default("gateway.listen") { LISTEN } else { effective.config.gateway.listen };
    let management =
        if is_default("management.listen") { MANAGEMENT } else { effective.config.management.listen };
    let config = &effective.config;
    let own = own_address(config);
    let (listen, management) = (addresses::listening(listen, own), addresses::listening(management, own));
    let Key(key) = Key::read(&config.cluster.key_file)?;
    let edge = Edge::open(edge::Config {
        gateway: config.gateway(listen, None),
        management,
        client: client().await?,
        namespace: config.cluster.namespace.clone(),
        watch_namespaces: config.cluster.watch_namespaces.clone(),
        key,
        name: pod(config).unwrap_or_else(this_process),
        linger: config.gateway.linger,
        drain: config.drain.deadline,
    })
    .await?;
    tracing::info!(addresses = ?edge.addresses(), "functions answer");
    Ok(edge.run(stop, hurry).await?)
}
