//! The command line: what can be typed. What it does is in the module of each command.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

pub(super) use cluster::{Controller, Gateway};
pub(super) use replay::{KeepAliveChoice, Record, Simulate};

mod cluster;
mod replay;

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
    /// Print the kubeconfig of the server, for kubectl and other clients
    Kubeconfig(Client),
    /// Say what this machine can and cannot do, and how to get it
    Doctor(Doctor),
    /// Print every option of the server, its value and where it comes from
    Config(ShowConfig),
    /// Print the version of this command and of the server
    Version(Version),
}

/// `hearth convert`.
#[derive(Debug, Args)]
#[command(after_help = "\
What cannot be honoured is named in a warning on standard error. `hearth apply -f` takes Knative Services as they are.

Examples:
  hearth convert -f service.yaml > function.yaml
  kubectl get ksvc hello -o yaml | hearth convert -f -")]
pub(super) struct Convert {
    /// Manifest, or directory of manifests; - is standard input
    #[arg(short, long = "filename", value_name = "FILE", required = true)]
    pub(super) filename: Vec<PathBuf>,
    /// Form of the output
    #[arg(short, long, value_enum, default_value_t = Format::Yaml, value_name = "FORMAT")]
    pub(super) output: Format,
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
    /// Kubeconfig of the server [default: `kubeconfig` in the data directory] [env: KUBECONFIG]
    #[arg(long, value_name = "FILE")]
    pub(super) kubeconfig: Option<PathBuf>,
    /// Data directory of a server on this machine [default: /var/lib/hearth] [env: HEARTH_DATA_DIR]
    #[arg(long, value_name = "DIR", conflicts_with = "kubeconfig")]
    pub(super) data_dir: Option<String>,
}

/// Where a command's functions are.
#[derive(Debug, Clone, Default, Args)]
pub(super) struct Place {
    /// Namespace; for manifests, of those that name none
    #[arg(short, long, value_name = "NS", env = "HEARTH_NAMESPACE", hide_env_values = true)]
    pub(super) namespace: Option<String>,
    /// Which server.
    #[command(flatten)]
    pub(super) client: Client,
}

/// `hearth up`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  hearth up examples/hello                 a directory: its *.yaml, *.yml and *.json of kind Function
  hearth up api.yaml web/                  several
  hearth up --listen 0.0.0.0:80 .          open to the network

Ctrl-C lets running calls end, stops every instance and leaves nothing behind; a second Ctrl-C does not wait for the calls.")]
pub(super) struct Up {
    /// Manifests and directories of manifests
    #[arg(required = true, value_name = "PATH")]
    pub(super) paths: Vec<PathBuf>,
    /// Do not show what the functions print
    #[arg(short, long)]
    pub(super) quiet: bool,
    /// Do not reload when files change
    #[arg(long)]
    pub(super) no_watch: bool,
    /// Configuration.
    #[command(flatten)]
    pub(super) server: ServerOptions,
}

/// `hearth serve`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  hearth serve
  hearth serve --listen 0.0.0.0:8080 --data-dir /srv/hearth
  HEARTH_GATEWAY_MAX_BODY=10Mi hearth serve --config hearth.toml")]
pub(super) struct Serve {
    /// Configuration.
    #[command(flatten)]
    pub(super) server: ServerOptions,
}

/// `hearth crd`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  hearth crd | kubectl apply -f -          teach a cluster what a Function is
  hearth crd --cel > crds.yaml             with rules that the API server itself checks, for Kubernetes from 1.31 on")]
pub(super) struct Crd {
    /// With rules in CEL and selectable fields, which Kubernetes knows from 1.31 on
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

/// `hearth apply`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  hearth apply -f hello/function.yaml
  hearth apply -f functions/               every manifest of a directory
  generate | hearth apply -f -             from standard input
  hearth apply -f hello --no-wait          do not wait until it is ready

`source.path` in a manifest is read here, relative to the manifest's file, and uploaded; the server never reads a path of yours.")]
pub(super) struct Apply {
    /// Manifest, directory of manifests, or - for standard input
    #[arg(short, long = "filename", value_name = "FILE|DIR|-", required = true)]
    pub(super) filename: Vec<PathBuf>,
    /// Wait until the functions are ready (the default)
    #[arg(long, overrides_with = "no_wait")]
    pub(super) wait: bool,
    /// Return when the server has taken the functions
    #[arg(long, overrides_with = "wait")]
    pub(super) no_wait: bool,
    /// How long to wait
    #[arg(long, value_name = "DURATION", default_value = "10m", value_parser = duration)]
    pub(super) timeout: std::time::Duration,
    /// Print the resulting objects
    #[arg(short, long, value_enum)]
    pub(super) output: Option<Format>,
    /// Where the functions are.
    #[command(flatten)]
    pub(super) place: Place,
}

/// What can be listed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Resource {
    /// What users declare
    #[value(name = "functions", alias = "function", alias = "fn")]
    Functions,
    /// Snapshots of functions
    #[value(name = "revisions", alias = "revision", alias = "rev")]
    Revisions,
    /// Containers that run now
    #[value(name = "instances", alias = "instance")]
    Instances,
}

/// Options of `top`.
#[derive(Debug, Args)]
pub(super) struct Top {
    /// Go on, once a second
    #[arg(short, long)]
    pub(super) watch: bool,
    /// Form of the output
    #[arg(short, long, value_enum)]
    pub(super) output: Option<Format>,
    /// Which server.
    #[command(flatten)]
    pub(super) client: Client,
}

/// `hearth get`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  hearth get functions                     in namespace default
  hearth get fn -A -o wide                 in all namespaces, more columns
  hearth get function hello -o yaml        one, whole
  hearth get revisions -w                  and go on with changes")]
pub(super) struct Get {
    /// What to list: functions (fn), revisions or instances
    #[arg(value_enum, hide_possible_values = true)]
    pub(super) resource: Resource,
    /// Only the one of this name
    pub(super) name: Option<String>,
    /// Go on and print changes
    #[arg(short, long)]
    pub(super) watch: bool,
    /// In all namespaces
    #[arg(short = 'A', long, conflicts_with = "namespace")]
    pub(super) all_namespaces: bool,
    /// Form of the output
    #[arg(short, long, value_enum)]
    pub(super) output: Option<ListFormat>,
    /// Where the functions are.
    #[command(flatten)]
    pub(super) place: Place,
}

/// `hearth describe`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  hearth describe function hello
  hearth describe hello -o json")]
pub(super) struct Describe {
    /// `function NAME`, or just NAME; `revision NAME`
    #[arg(required = true, num_args = 1..=2, value_names = ["function", "NAME"])]
    pub(super) what: Vec<String>,
    /// How it is printed.
    #[command(flatten)]
    pub(super) output: Output,
    /// Where the functions are.
    #[command(flatten)]
    pub(super) place: Place,
}

/// `hearth delete`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  hearth delete function hello
  hearth delete -f functions/              every function the manifests name")]
pub(super) struct Delete {
    /// `function NAME…`, or just NAME
    #[arg(num_args = 0.., value_names = ["function", "NAME"], required_unless_present = "filename", conflicts_with = "filename")]
    pub(super) what: Vec<String>,
    /// Manifest, directory of manifests, or - for standard input
    #[arg(short, long = "filename", value_name = "FILE|DIR|-")]
    pub(super) filename: Vec<PathBuf>,
    /// It is no error when a function is not there
    #[arg(long)]
    pub(super) ignore_not_found: bool,
    /// Where the functions are.
    #[command(flatten)]
    pub(super) place: Place,
}

/// `hearth invoke`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  hearth invoke hello                              GET /
  hearth invoke hello -d '{\"name\":\"Ada\"}'          POST / with this body
  hearth invoke hello -d @event.json               the body from a file, -d @- or -d - from standard input
  hearth invoke hello --path /items/7 --method DELETE --header 'x-key: 1'

Prints the answer's body; exits with 1 when the answer's status is 400 or more.")]
pub(super) struct Invoke {
    /// The function
    pub(super) name: String,
    /// Body: text, @FILE, or - for standard input
    #[arg(short, long, value_name = "DATA|@FILE|-", allow_hyphen_values = true)]
    pub(super) data: Option<String>,
    /// Path and query that the function sees
    #[arg(long, default_value = "/")]
    pub(super) path: String,
    /// Method [default: GET, or POST with a body]
    #[arg(long, short = 'X')]
    pub(super) method: Option<String>,
    /// A request header, as in 'content-type: text/plain'
    #[arg(long, short = 'H', value_name = "NAME: VALUE")]
    pub(super) header: Vec<String>,
    /// Print status and headers of the answer before the body
    #[arg(short, long)]
    pub(super) include: bool,
    /// Print status, headers and body as one object
    #[arg(short, long, value_enum)]
    pub(super) output: Option<Format>,
    /// Where the functions are.
    #[command(flatten)]
    pub(super) place: Place,
}

/// `hearth logs`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  hearth logs hello                        what is kept
  hearth logs -f --tail 10 hello           the last ten lines and what comes
  hearth logs hello --request 8f2c…        the lines of one call: its answer's x-hearth-request-id")]
pub(super) struct Logs {
    /// The function
    pub(super) name: String,
    /// Go on with new lines
    #[arg(short, long)]
    pub(super) follow: bool,
    /// Only lines of this request
    #[arg(long, value_name = "ID")]
    pub(super) request: Option<String>,
    /// Only the last N lines of those that are there
    #[arg(long, value_name = "N")]
    pub(super) tail: Option<usize>,
    /// Only lines of the last while, as in 10m
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub(super) since: Option<std::time::Duration>,
    /// Show time, instance and request of each line
    #[arg(long)]
    pub(super) details: bool,
    /// Form of the output: json is an object each line
    #[arg(short, long, value_enum)]
    pub(super) output: Option<Format>,
    /// Where the functions are.
    #[command(flatten)]
    pub(super) place: Place,
}

/// `hearth init`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  hearth init hello --runtime nodejs && hearth up hello
  hearth init words --runtime exec

The directory NAME gets a manifest and the code; what is there already is never changed.")]
pub(super) struct Init {
    /// The function, and its directory
    pub(super) name: String,
    /// What runs it
    #[arg(long, value_enum, default_value = "nodejs")]
    pub(super) runtime: Template,
}

/// A template of a function.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Template {
    /// A handler in Node.js
    Nodejs,
    /// A handler in Python
    Python,
    /// A server of its own, in Python
    Http,
    /// A program for each call, in sh
    Exec,
}

/// Where a built image goes.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Where the image goes")]
pub(super) struct Destination {
    /// Into an OCI layout directory
    #[arg(long, value_name = "oci:DIR", value_parser = oci_directory)]
    pub(super) output: Option<PathBuf>,
    /// To a registry, with the credentials of `docker login`
    #[arg(long, value_name = "REFERENCE")]
    pub(super) push: Option<String>,
    /// The registry speaks plain HTTP, and it is not on this machine's loopback
    #[arg(long)]
    pub(super) plain_http: bool,
    /// Into the local engine, under this name [default: the function's]
    #[arg(long, value_name = "NAME", num_args = 0..=1, default_missing_value = "")]
    pub(super) load: Option<String>,
    /// Where layers and dependencies are kept for the next time [default: ~/.cache/hearth]
    #[arg(long, value_name = "DIR", env = "HEARTH_CACHE")]
    pub(super) cache_dir: Option<PathBuf>,
}

/// `hearth build`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  hearth build hello --output oci:hello-image
  hearth build hello --push registry.example.com/team/hello:1
  hearth build hello --load                then: docker image ls hello
  hearth build server --base registry.example.com/debian:12 --output oci:out

Three layers: the base (the host's own interpreter, unless --base), the dependencies, the code. The same input gives the same digest. The
variables of the manifest and files such as .env and *.pem are in none of them. Dependencies are installed in a container, which needs root.")]
pub(super) struct Build {
    /// Manifest, or directory of manifests
    #[arg(value_name = "DIR|FILE")]
    pub(super) path: PathBuf,
    /// Which function, where there are several
    #[arg(long, value_name = "NAME")]
    pub(super) function: Option<String>,
    /// Upon what it is built: a reference, an OCI layout directory as oci:DIR, or an archive of `docker save`
    #[arg(long, value_name = "IMAGE")]
    pub(super) base: Option<String>,
    /// Where it goes.
    #[command(flatten)]
    pub(super) destination: Destination,
}

/// `hearth runtimes`.
#[derive(Debug, Args)]
pub(super) struct Runtimes {
    /// How it is printed.
    #[command(flatten)]
    pub(super) output: Output,
}

/// `hearth runtime`.
#[derive(Debug, Subcommand)]
pub(super) enum Runtime {
    /// Of the host's own interpreter and its libraries, so that no registry is needed
    FromHost(FromHost),
    /// Write what a runtime image needs beside an interpreter, for the Dockerfiles of runtime-shim/images
    Files(RuntimeFiles),
}

/// `hearth runtime files`.
#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  hearth runtime files out
  docker build -f runtime-shim/images/nodejs.Dockerfile -t hearth-nodejs out")]
pub(super) struct RuntimeFiles {
    /// A directory that is not there yet
    pub(super) directory: PathBuf,
}

/// `hearth runtime from-host`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  hearth runtime from-host nodejs --output oci:nodejs
  hearth runtime from-host python3.11 --push registry.example.com/runtimes/python:3.11")]
pub(super) struct FromHost {
    /// `nodejs`, `nodejs22`, `python`, `python3.12`
    pub(super) runtime: String,
    /// Where it goes.
    #[command(flatten)]
    pub(super) destination: Destination,
}

/// `hearth image`.
#[derive(Debug, Subcommand)]
pub(super) enum Image {
    /// Upload an image from this machine's disk and print what `source.image` names it by
    Load(LoadImage),
    /// Push an image from this machine's disk to a registry; needs no server
    Push(PushImage),
    /// List the images that the server has unpacked
    #[command(alias = "ls")]
    List(ListImages),
}

/// `hearth image load`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  hearth image load ./layout               an OCI layout directory, as hearth build and skopeo make it
  docker save app:1 -o app.tar && hearth image load app.tar
  hearth image load app.tar                an OCI archive too

Only the layers that the server lacks are sent. Each image is named by the digest of its manifest: sha256:…")]
pub(super) struct LoadImage {
    /// OCI layout directory, OCI archive, or what `docker save` wrote
    #[arg(value_name = "DIR|FILE")]
    pub(super) path: PathBuf,
    /// Which server.
    #[command(flatten)]
    pub(super) client: Client,
}

/// `hearth image push`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  hearth image push ./layout registry.example.com/team/app:1

Credentials are those of `docker login` (~/.docker/config.json). What the registry has already is not sent again.")]
pub(super) struct PushImage {
    /// OCI layout directory, OCI archive, or what `docker save` wrote
    #[arg(value_name = "DIR|FILE")]
    pub(super) path: PathBuf,
    /// Where it goes
    #[arg(value_name = "REFERENCE")]
    pub(super) reference: String,
    /// The registry speaks plain HTTP, and it is not on this machine's loopback
    #[arg(long)]
    pub(super) plain_http: bool,
}

/// `hearth image list`.
#[derive(Debug, Args)]
pub(super) struct ListImages {
    /// How it is printed.
    #[command(flatten)]
    pub(super) output: Output,
    /// Which server.
    #[command(flatten)]
    pub(super) client: Client,
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

/// `hearth doctor`.
#[derive(Debug, Args)]
pub(super) struct Doctor {
    /// How it is printed.
    #[command(flatten)]
    pub(super) output: Output,
    /// Configuration.
    #[command(flatten)]
    pub(super) server: ServerOptions,
}

/// `hearth config`.
#[derive(Debug, Args)]
#[command(after_help = "\
A value comes from, the later winning: its default, the file, the environment (HEARTH_ and the key in capitals, `.` as `_`), a flag.

Examples:
  hearth config
  hearth config --docs                     with what each option means
  HEARTH_DRAIN_DEADLINE=5s hearth config -o yaml")]
pub(super) struct ShowConfig {
    /// Say what each option means
    #[arg(long)]
    pub(super) docs: bool,
    /// How it is printed.
    #[command(flatten)]
    pub(super) output: Output,
    /// Configuration.
    #[command(flatten)]
    pub(super) server: ServerOptions,
}

/// `hearth version`.
#[derive(Debug, Args)]
pub(super) struct Version {
    /// Do not ask a server
    #[arg(long)]
    pub(super) client_only: bool,
    /// How it is printed.
    #[command(flatten)]
    pub(super) output: Output,
    /// Which server.
    #[command(flatten)]
    pub(super) client: Client,
}

fn oci_directory(text: &str) -> Result<PathBuf, String> {
    match text.strip_prefix("oci:") {
        Some(path) if !path.is_empty() => Ok(PathBuf::from(path)),
        _ => Err("give the form and the directory, as in oci:out".to_owned()),
    }
}

pub(super) fn key_value(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("give KEY=VALUE, as in gateway.max_body=10Mi")?;
    Ok((key.trim().to_owned(), value.to_owned()))
}

fn duration(text: &str) -> Result<std::time::Duration, String> {
    humantime::parse_duration(text).map_err(|_| "give a duration, as in 30s or 5m".to_owned())
}
