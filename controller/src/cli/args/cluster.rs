//! The processes of a cluster.

use std::path::PathBuf;

use clap::Args;

use super::key_value;

/// `hearth controller`.
#[derive(Debug, Args)]
#[command(after_help = "\
The chart runs it; by hand, against the cluster of the kubeconfig:
  hearth crd | kubectl apply -f -
  hearth controller --namespace hearth-system --key-file key --data-dir ./data --runtime nodejs22.1.0=hearth-nodejs:22 --report-advertise 192.0.2.7:7072
where 192.0.2.7 is an address of this machine that Pods reach.

Several may run: one works, the others stand by and take over when it ends. It exits with 1 when it has lost its Lease.")]
#[command(next_help_heading = "Controller options")]
pub(in crate::cli) struct Controller {
    /// Namespace of Hearth itself [default: hearth-system] [env: HEARTH_CLUSTER_NAMESPACE]
    #[arg(long, value_name = "NS")]
    namespace: Option<String>,
    /// Serve the functions of this namespace only; can be given several times [default: all] [env: HEARTH_CLUSTER_WATCH_NAMESPACES]
    #[arg(long, value_name = "NS")]
    watch_namespace: Vec<String>,
    /// Address where instances report themselves [default: 0.0.0.0:7072] [env: HEARTH_CONTROLLER_REPORT_LISTEN]
    #[arg(long, value_name = "ADDR")]
    report_listen: Option<String>,
    /// How instances reach that, HOST:PORT [default: the Pod's own address; outside of a cluster loopback, which no Pod reaches] [env: HEARTH_CONTROLLER_REPORT_ADVERTISE]
    #[arg(long, value_name = "ADDR")]
    report_advertise: Option<String>,
    /// Address where gateways connect [default: 0.0.0.0:7071] [env: HEARTH_CONTROLLER_HUB_LISTEN]
    #[arg(long, value_name = "ADDR")]
    hub_listen: Option<String>,
    /// Address of /healthz, /metrics and of what the command line uses [default: 0.0.0.0:7070] [env: HEARTH_CONTROLLER_MANAGEMENT]
    #[arg(long, value_name = "ADDR")]
    management: Option<String>,
    /// Directory for bundles, dependencies and logs [default: /var/lib/hearth] [env: HEARTH_DATA_DIR]
    #[arg(long, value_name = "DIR")]
    data_dir: Option<String>,
    /// File of the cluster key [default: /etc/hearth/key] [env: HEARTH_CLUSTER_KEY_FILE]
    #[arg(long, value_name = "FILE")]
    key_file: Option<String>,
    /// How clients reach the gateways [default: http://hearth-gateway.hearth-system] [env: HEARTH_CONTROLLER_GATEWAY_URL]
    // The comment is the text of --help.
    #[allow(rustdoc::bare_urls, reason = "a URL there is no link")]
    #[arg(long, value_name = "URL")]
    gateway_url: Option<String>,
    /// How instances reach them, where that is another way [default: the same] [env: HEARTH_CONTROLLER_GATEWAY_URL_INSIDE]
    #[arg(long, value_name = "URL")]
    gateway_url_inside: Option<String>,
    /// A runtime image, as in nodejs22.1.0:/usr/local/bin/node=IMAGE; can be given several times [env: HEARTH_CLUSTER_RUNTIMES]
    #[arg(long, value_name = "NAME=IMAGE")]
    runtime: Vec<String>,
    /// Configuration file, YAML or TOML [default: /etc/hearth/config.yaml, .yml or .toml if there] [env: HEARTH_CONFIG]
    #[arg(long, value_name = "FILE")]
    pub(in crate::cli) config: Option<PathBuf>,
    /// Any option by its key, as in --set controller.lease_duration=20s
    #[arg(long, value_name = "KEY=VALUE", value_parser = key_value)]
    set: Vec<(String, String)>,
}

impl Controller {
    /// The flags as a layer of the configuration.
    pub(in crate::cli) fn flags(&self) -> Vec<(String, String)> {
        let list = |items: &[String]| (!items.is_empty()).then(|| items.join(","));
        let named = [
            ("cluster.namespace", self.namespace.clone()),
            ("cluster.watch_namespaces", list(&self.watch_namespace)),
            ("controller.report_listen", self.report_listen.clone()),
            ("controller.report_advertise", self.report_advertise.clone()),
            ("controller.hub_listen", self.hub_listen.clone()),
            ("controller.management", self.management.clone()),
            ("data_dir", self.data_dir.clone()),
            ("cluster.key_file", self.key_file.clone()),
            ("controller.gateway_url", self.gateway_url.clone()),
            ("controller.gateway_url_inside", self.gateway_url_inside.clone()),
            ("cluster.runtimes", list(&self.runtime)),
        ];
        let named = named.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?)));
        self.set.iter().cloned().chain(named).collect()
    }
}

/// `hearth gateway`.
#[derive(Debug, Args)]
#[command(after_help = "\
The chart runs several; by hand, against the cluster of the kubeconfig and beside a `hearth controller`:
  hearth gateway --namespace hearth-system --key-file key --listen 127.0.0.1:8080

It keeps nothing. On SIGTERM it says that it is not ready, serves on for --linger, and lets running requests end.")]
#[command(next_help_heading = "Gateway options")]
pub(in crate::cli) struct Gateway {
    /// Address where functions answer [default: 0.0.0.0:8080] [env: HEARTH_GATEWAY_LISTEN]
    #[arg(long, value_name = "ADDR")]
    listen: Option<String>,
    /// Address of /healthz, /readyz and /metrics [default: 0.0.0.0:7070] [env: HEARTH_MANAGEMENT_LISTEN]
    #[arg(long, value_name = "ADDR")]
    management: Option<String>,
    /// Namespace of Hearth itself [default: hearth-system] [env: HEARTH_CLUSTER_NAMESPACE]
    #[arg(long, value_name = "NS")]
    namespace: Option<String>,
    /// Serve the functions of this namespace only; can be given several times [default: all] [env: HEARTH_CLUSTER_WATCH_NAMESPACES]
    #[arg(long, value_name = "NS")]
    watch_namespace: Vec<String>,
    /// File of the cluster key [default: /etc/hearth/key] [env: HEARTH_CLUSTER_KEY_FILE]
    #[arg(long, value_name = "FILE")]
    key_file: Option<String>,
    /// How long it serves on when it is told to stop [default: 5s] [env: HEARTH_GATEWAY_LINGER]
    #[arg(long, value_name = "TIME")]
    linger: Option<String>,
    /// Configuration file, YAML or TOML [default: /etc/hearth/config.yaml, .yml or .toml if there] [env: HEARTH_CONFIG]
    #[arg(long, value_name = "FILE")]
    pub(in crate::cli) config: Option<PathBuf>,
    /// Any option by its key, as in --set gateway.max_body=10Mi
    #[arg(long, value_name = "KEY=VALUE", value_parser = key_value)]
    set: Vec<(String, String)>,
}

impl Gateway {
    /// The flags as a layer of the configuration.
    pub(in crate::cli) fn flags(&self) -> Vec<(String, String)> {
        let namespaces = (!self.watch_namespace.is_empty()).then(|| self.watch_namespace.join(","));
        let named = [
            ("gateway.listen", self.listen.clone()),
            ("management.listen", self.management.clone()),
            ("cluster.namespace", self.namespace.clone()),
            ("cluster.watch_namespaces", namespaces),
            ("cluster.key_file", self.key_file.clone()),
            ("gateway.linger", self.linger.clone()),
        ];
        let named = named.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?)));
        self.set.iter().cloned().chain(named).collect()
    }
}
