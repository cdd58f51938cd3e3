//! The command line: what can be typed, and what several commands have in common. The arguments of each are in the modules below, by what they
//! are about; what a command does is in the module of its name.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

pub(super) use cluster::{Controller, Gateway};
pub(super) use functions::{
    Apply, Convert, Delete, Describe, Get, Init, Invoke, Logs, Resource, Template, Top,
};
pub(super) use images::{Build, Destination, FromHost, Image, ListImages, LoadImage, Runtime, Runtimes};
pub(super) use replay::{KeepAliveChoice, Record, Simulate};
pub(super) use server::{Doctor, Serve, ShowConfig, Up, Version};

mod cluster;
mod functions;
mod images;
mod replay;
mod server;

const ABOUT: &str = "Runs functions in containers, from zero, as many as are called, and back to zero.";

const EXAMPLES: &str = "\
Examples:
  hearth up examples/hello                 run a function from a directory, reload it when its files change
  curl http://127.0.0.1:8080/hello         call it
  hearth logs -f hello                     see what it prints

  hearth serve                             the same for a server: functions come by `hearth apply`
  hearth apply -f functions/               create or change functions
  hearth get functions                     what runs

Exit codes: 0 done, 1 failed, 2 wrong usage.";

/// Everything that was typed.
#[derive(Debug, Parser)]
#[command(name = "hearth", version, about = ABOUT, after_help = EXAMPLES, propagate_version = false)]
#[command(disable_help_subcommand = true, max_term_width = 100)]
pub(super) struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub(super) command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Start a server with the functions of these files and directories, and reload them when they change
    Up(Up),
    /// Start a server; functions come by `hearth apply`
    Serve(Serve),
    /// Run functions in a Kubernetes cluster: the controller
    Controller(Controller),
    /// Run functions in a Kubernetes cluster: a gateway, one of several
    Gateway(Gateway),
    /// Create or change functions by manifest
    Apply(Apply),
    /// Print Knative Services as Functions
    Convert(Convert),
    /// List functions, revisions or instances
    Get(Get),
    /// Show how warm the server is: instances by rung of the warmth ladder, what they hold, what a restoration takes
    Top(Top),
    /// Show all about a function: state, conditions, decisions, instances
    Describe(Describe),
    /// Delete functions
    Delete(Delete),
    /// Call a function
    Invoke(Invoke),
    /// Show what a function printed
    Logs(Logs),
    /// Write the calls that functions have had, as a trace for `hearth simulate`
    Record(Record),
    /// Make a new function from a template, in a directory of its own
    Init(Init),
    /// Build the image of a function: its runtime, its dependencies and its code, without a daemon
    Build(Build),
    /// List the runtimes that are usable on this machine, and why others are not
    Runtimes(Runtimes),
    /// Make an image of a runtime
    #[command(subcommand)]
    Runtime(Runtime),
    /// Bring images to the server, and list those that it has
    #[command(subcommand)]
    Image(Image),
    /// Replay a trace against scaling policies and compare what they would have done
    Simulate(Simulate),
    /// Document a manifest's fields: meaning, form, default
    Explain(Explain),
    /// Print the resource definitions of functions and revisions, for a Kubernetes cluster
    Crd(Crd),
    /// Print the kubeconfig of the server of this machine, for kubectl and other clients
    Kubeconfig(LocalServer),
    /// Say what this machine can and cannot do, and how to get it
    Doctor(Doctor),
    /// Print every option of the server, its value and where it comes from
    Config(ShowConfig),
    /// Print the version of this command and of the server
    Version(Version),
}

/// What configures a server. Every option can stand in a file or the environment as well; `hearth config` shows them all.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Server options")]
pub(super) struct ServerOptions {
    /// Address where functions answer [default: 127.0.0.1:8080] [env: HEARTH_GATEWAY_LISTEN]
    #[arg(long, value_name = "ADDR")]
    pub(super) listen: Option<String>,
    /// Address of the management API [default: 127.0.0.1:7070] [env: HEARTH_MANAGEMENT_LISTEN]
    #[arg(long, value_name = "ADDR")]
    pub(super) management: Option<String>,
    /// Directory of the server's state [default: /var/lib/hearth] [env: HEARTH_DATA_DIR]
    #[arg(long, value_name = "DIR")]
    pub(super) data_dir: Option<String>,
    /// Where instances run, embedded or docker [default: embedded] [env: HEARTH_BACKEND]
    #[arg(long, value_name = "NAME")]
    pub(super) backend: Option<String>,
    /// Configuration file, YAML or TOML [default: /etc/hearth/config.yaml, .yml or .toml if there] [env: HEARTH_CONFIG]
    #[arg(long, value_name = "FILE")]
    pub(super) config: Option<PathBuf>,
    /// Any option of the server by its key, as in --set gateway.max_body=10Mi
    #[arg(long, value_name = "KEY=VALUE", value_parser = key_value)]
    pub(super) set: Vec<(String, String)>,
}

impl ServerOptions {
    /// The flags as a layer of the configuration.
    #[must_use]
    pub(super) fn flags(&self) -> Vec<(String, String)> {
        let named = [
            ("gateway.listen", &self.listen),
            ("management.listen", &self.management),
            ("data_dir", &self.data_dir),
            ("backend", &self.backend),
        ];
        let named = named.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value.clone()?)));
        self.set.iter().cloned().chain(named).collect()
    }
}

/// Which server a command talks to.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Which server")]
pub(super) struct Client {
    /// Kubeconfig of the server or cluster; ~/.kube/config is used only if it is named [default: `kubeconfig` in the data directory] [env: KUBECONFIG]
    #[arg(long, value_name = "FILE")]
    pub(super) kubeconfig: Option<PathBuf>,
    /// Data directory of a server on this machine [default: /var/lib/hearth] [env: HEARTH_DATA_DIR]
    #[arg(long, value_name = "DIR", conflicts_with = "kubeconfig")]
    pub(super) data_dir: Option<String>,
}

/// `hearth kubeconfig`.
#[derive(Debug, Args)]
#[command(after_help = "\
The server writes the file when it starts. KUBECONFIG, which may name a cluster, counts for nothing here.

Examples:
  hearth kubeconfig > hearth.kubeconfig
  kubectl --kubeconfig hearth.kubeconfig get functions")]
pub(super) struct LocalServer {
    /// Data directory of the server [default: /var/lib/hearth] [env: HEARTH_DATA_DIR]
    #[arg(long, value_name = "DIR")]
    pub(super) data_dir: Option<String>,
}

/// What a namespace is named by without `-n`.
pub(super) const NAMESPACE_VARIABLE: &str = "HEARTH_NAMESPACE";

/// Where a command's functions are.
#[derive(Debug, Clone, Default, Args)]
pub(super) struct Place {
    /// Namespace; for manifests, of those that name none
    #[arg(short, long, value_name = "NS", env = NAMESPACE_VARIABLE, hide_env_values = true)]
    pub(super) namespace: Option<String>,
    /// Which server.
    #[command(flatten)]
    pub(super) client: Client,
}

/// `hearth crd`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  hearth crd | kubectl apply -f -          teach a cluster what a Function is
  hearth crd --cel > crds.yaml             with rules that the API server itself checks, for Kubernetes from 1.30 on")]
pub(super) struct Crd {
    /// With rules in CEL and selectable fields, which Kubernetes knows from 1.30 on
    #[arg(long)]
    pub(super) cel: bool,
    /// Form of the output
    #[arg(short, long, value_enum, default_value = "yaml")]
    pub(super) output: Format,
}

/// Form of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Format {
    /// JSON
    Json,
    /// YAML
    Yaml,
}

/// How something is printed that people read as a rule.
#[derive(Debug, Clone, Copy, Default, Args)]
pub(super) struct Output {
    /// Form of the output
    #[arg(short = 'o', long = "output", value_enum, value_name = "FORMAT")]
    pub(super) form: Option<Format>,
}

/// Form of a list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum ListFormat {
    /// JSON
    Json,
    /// YAML
    Yaml,
    /// The table with more columns
    Wide,
    /// Names only, one each line
    Name,
}

/// `hearth explain`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  hearth explain function
  hearth explain function.spec.scale
  hearth explain revision")]
pub(super) struct Explain {
    /// Path of the field, from `function`
    #[arg(default_value = "function", value_name = "PATH")]
    pub(super) path: String,
}

pub(super) fn key_value(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("give KEY=VALUE, as in gateway.max_body=10Mi")?;
    Ok((key.trim().to_owned(), value.to_owned()))
}

fn duration(text: &str) -> Result<std::time::Duration, String> {
    humantime::parse_duration(text).map_err(|_| "give a duration, as in 30s or 5m".to_owned())
}
