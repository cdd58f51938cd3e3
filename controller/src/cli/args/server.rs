//! `hearth up` and `hearth serve`, and what is about a server as a whole: what can be typed.

use std::path::PathBuf;

use clap::Args;

use super::{Client, Output, ServerOptions};

/// `hearth up`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  hearth up examples/hello                 a directory: its *.yaml, *.yml and *.json of kind Function
  hearth up api.yaml web/                  several
  hearth up --listen 0.0.0.0:80 .          open to the network

Ctrl-C lets running calls end, stops every instance and leaves nothing behind; a second Ctrl-C does not wait for the calls.")]
pub(in crate::cli) struct Up {
    /// Manifests and directories of manifests
    #[arg(required = true, value_name = "PATH")]
    pub(in crate::cli) paths: Vec<PathBuf>,
    /// Do not show what the functions print
    #[arg(short, long)]
    pub(in crate::cli) quiet: bool,
    /// Do not reload when files change
    #[arg(long)]
    pub(in crate::cli) no_watch: bool,
    /// Configuration.
    #[command(flatten)]
    pub(in crate::cli) server: ServerOptions,
}

/// `hearth serve`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  hearth serve
  hearth serve --listen 0.0.0.0:8080 --data-dir /srv/hearth
  HEARTH_GATEWAY_MAX_BODY=10Mi hearth serve --config hearth.toml")]
pub(in crate::cli) struct Serve {
    /// Configuration.
    #[command(flatten)]
    pub(in crate::cli) server: ServerOptions,
}

/// `hearth doctor`.
#[derive(Debug, Args)]
pub(in crate::cli) struct Doctor {
    /// How it is printed.
    #[command(flatten)]
    pub(in crate::cli) output: Output,
    /// Configuration.
    #[command(flatten)]
    pub(in crate::cli) server: ServerOptions,
}

/// `hearth config`.
#[derive(Debug, Args)]
#[command(after_help = "\
A value comes from, the later winning: its default, the file, the environment (HEARTH_ and the key in capitals, `.` as `_`), a flag.

Examples:
  hearth config
  hearth config --docs                     with what each option means
  HEARTH_DRAIN_DEADLINE=5s hearth config -o yaml")]
pub(in crate::cli) struct ShowConfig {
    /// Say what each option means
    #[arg(long)]
    pub(in crate::cli) docs: bool,
    /// How it is printed.
    #[command(flatten)]
    pub(in crate::cli) output: Output,
    /// Configuration.
    #[command(flatten)]
    pub(in crate::cli) server: ServerOptions,
}

/// `hearth version`.
#[derive(Debug, Args)]
pub(in crate::cli) struct Version {
    /// Do not ask a server
    #[arg(long)]
    pub(in crate::cli) client_only: bool,
    /// How it is printed.
    #[command(flatten)]
    pub(in crate::cli) output: Output,
    /// Which server.
    #[command(flatten)]
    pub(in crate::cli) client: Client,
}
