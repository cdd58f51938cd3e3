//! The gateway alone, before one Node bootstrap without a container: for measuring the request path and nothing else.
//!
//! ```text
//! cargo run --release --example gateway -- runtime-shim/bootstrap/node/bootstrap.cjs DIR [HANDLER] [SIGNATURE] [ADDRESS] [SLOTS]
//! wrk -t2 -c64 http://127.0.0.1:8080/function/default/bench
//! ```
//!
//! The process is started through a shell, which hands over the descriptors that the shim would: 3 the listening socket, 4 the log
//! pipe, 5 the boot configuration.

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
use hearth::backend::{Address, control};
use hearth::gateway::{Channels, Config, Gateway, Served, Timeouts};
use hearth::telemetry::metrics::Registry;
use hearth_dispatch::{Endpoint, EndpointAddress, Forwarding, StartKind, ToGateway};
use hearth_function::{FunctionId, InstanceId, RevisionId};
use hearth_protocol::{Load, Signature};
use tokio::sync::mpsc;

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let bootstrap = PathBuf::from(arguments.next().context("the path of bootstrap.cjs")?).canonicalize()?;
    let code = PathBuf::from(arguments.next().context("the directory of the code")?).canonicalize()?;
    let handler = arguments.next().unwrap_or_else(|| "index.handler".to_owned());
    let signature = arguments.next().unwrap_or_else(|| "auto".to_owned());
    let address = arguments.next().unwrap_or_else(|| "127.0.0.1:8080".to_owned()).parse()?;
    let slots = arguments.next().map_or(Ok(1000), |slots| slots.parse())?;

    let directory = tempfile::tempdir()?;
    let socket = directory.path().join("invoke.sock");
    let secret = "5".repeat(64);
    let listener = std::os::unix::net::UnixListener::bind(&socket)?;
    let boot = directory.path().join("boot.json");
    let configuration = serde_json::json!({ "secret": secret, "instance": "bench", "concurrency": slots, "nonce": "0", "memoryBytes": 256 << 20 });
    std::fs::write(&boot, configuration.to_string())?;
    let script =
        format!("exec node '{}' 3<&0 4>/dev/null 5<'{}' </dev/null", bootstrap.display(), boot.display());
    let mut command = tokio::process::Command::new("sh");
    command.arg("-c").arg(script).stdin(std::os::fd::OwnedFd::from(listener));
    let mut node = command.kill_on_drop(true).spawn()?;

    let load = Load {
        code: code.display().to_string(),
        handler: Some(handler),
        signature: serde_json::from_value::<Signature>(serde_json::Value::String(signature))?,
        env: std::collections::BTreeMap::new(),
        function: "bench".to_owned(),
        namespace: "default".to_owned(),
        revision: "bench-00001".to_owned(),
        concurrency: slots,
        memory_bytes: 256 << 20,
        execute_timeout_ms: 30_000,
    };
    let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
    let (_, ready) = control::load(&Address::Unix(socket.clone()), &secret, load, deadline).await?;
    let forwarding = match ready.signature {
        Signature::Event => Forwarding::Event,
        Signature::Http => Forwarding::Attach,
        _ => Forwarding::Frames,
    };

    let (to_scaler, mut from_gateway) = mpsc::channel(1024);
    let (to_gateway, from_scaler) = mpsc::channel(1024);
    let (calls, mut records) = mpsc::channel(1024);
    let config = Config {
        listen: vec![address],
        threads: NonZeroUsize::new(1).context("one thread")?,
        ..Config::default()
    };
    let handle = Gateway::start(
        config,
        Channels { to_scaler, from_scaler, calls, freezer: None, strain: None },
        &Registry::new(),
    )?;
    let revision = RevisionId::parse("default/bench-00001")?;
    handle.serve(vec![Served {
        function: FunctionId::parse("default/bench")?,
        created: 1,
        revision: revision.clone(),
        timeouts: Timeouts::default(),
        claims: Vec::new(),
    }]);
    let endpoint = Endpoint {
        instance: InstanceId::parse("bench")?,
        address: EndpointAddress::Unix(socket),
        secret,
        forwarding,
        start: StartKind::Cold,
        start_time: Duration::ZERO,
        single_use: false,
        reserved: false,
        own_server: false,
    };
    to_gateway.send(ToGateway::Grant { revision, endpoint, slots }).await?;
    tracing_subscriber::fmt().with_writer(std::io::stderr).init();
    tracing::info!(addresses = ?handle.addresses(), signature = ?ready.signature, "serving /function/default/bench");

    loop {
        tokio::select! {
            message = from_gateway.recv() => match message {
                Some(hearth_dispatch::ToScaler::Load(_)) => {}
                other => tracing::info!(?other),
            },
            _ = records.recv() => {}
            status = node.wait() => anyhow::bail!("node ended: {}", status?),
            _ = tokio::signal::ctrl_c() => break,
        }
    }
    handle.shutdown(Duration::from_secs(1)).await;
    node.kill().await?;
    Ok(())
}
