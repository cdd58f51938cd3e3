//! Commands and their output: a client of the management API, with no logic of its own.
//!
//! `up` and `serve` start a server in this process by [`crate::serve`]; every other command talks to one by the kube crate. What a
//! command prints goes to standard output, remarks and errors to standard error; exit codes: 0 done, 1 failed, 2 wrong usage.

mod apply;
mod args;
mod aside;
mod build;
mod client;
mod config;
mod controller;
mod convert;
mod delete;
mod describe;
mod doctor;
mod error;
mod explain;
mod gateway;
mod get;
mod hint;
mod image;
mod init;
mod invoke;
mod kubectl;
mod logs;
mod manifest;
mod out;
mod patience;
mod progress;
mod record;
mod runtime;
mod server;
mod simulate;
mod small;
mod top;
mod up;
mod waits;

use std::process::ExitCode;

use clap::Parser;

use crate::serve::config::{Effective, Layers, Problems, load};

use args::{Cli, Command, ServerOptions};
use error::Error;

/// Runs the command that this process was called with.
#[must_use]
pub fn main() -> ExitCode {
    match run(Cli::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => error.show(),
    }
}

fn run(command: Command) -> Result<(), Error> {
    match command {
        // The few that need neither network nor files of others.
        Command::Convert(arguments) => convert::run(&arguments),
        Command::Explain(arguments) => explain::run(&arguments),
        Command::Crd(arguments) => small::crd(&arguments),
        Command::Simulate(arguments) => simulate::run(&arguments),
        Command::Config(arguments) => config::run(&arguments),
        Command::Kubeconfig(arguments) => small::kubeconfig(&arguments),
        Command::Up(arguments) => server::block_on(up::run(arguments)),
        Command::Serve(arguments) => server::block_on(server::run(arguments)),
        Command::Controller(arguments) => controller::run(&arguments),
        Command::Gateway(arguments) => gateway::run(&arguments),
        Command::Apply(arguments) => client(apply::run(arguments)),
        Command::Get(arguments) => client(get::run(arguments)),
        Command::Top(arguments) => client(top::run(arguments)),
        Command::Describe(arguments) => client(describe::run(arguments)),
        Command::Delete(arguments) => client(delete::run(arguments)),
        Command::Invoke(arguments) => client(invoke::run(arguments)),
        Command::Logs(arguments) => client(logs::run(arguments)),
        Command::Record(arguments) => client(record::run(arguments)),
        Command::Init(arguments) => init::run(&arguments),
        Command::Build(arguments) => server::block_on(build::run(arguments)),
        Command::Runtimes(arguments) => runtime::list(&arguments),
        Command::Runtime(arguments) => client(runtime::run(arguments)),
        Command::Image(arguments) => client(image::run(arguments)),
        Command::Doctor(arguments) => client(doctor::run(arguments)),
        Command::Version(arguments) => client(small::version(arguments)),
    }
}

/// A client does one thing at a time: one thread is enough.
fn client(command: impl Future<Output = Result<(), Error>>) -> Result<(), Error> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(|error| Error::failed(format!("cannot start: {error}")))?.block_on(command)
}

/// The environment of this process. A variable that is no Unicode is none of ours.
fn environment() -> Vec<(String, String)> {
    std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect()
}

/// The configuration in force for these options.
fn configuration(options: &ServerOptions) -> Result<Effective, Error> {
    let layers = Layers { file: options.config.clone(), environment: environment(), flags: options.flags() };
    load(&layers).map_err(|problems| bad_config(&problems))
}

fn bad_config(problems: &Problems) -> Error {
    Error::Failed {
        what: match problems.0.len() {
            1 => "the configuration has a problem".to_owned(),
            count => format!("the configuration has {count} problems"),
        },
        details: problems.0.iter().map(ToString::to_string).collect(),
        fix: Some("`hearth config --docs` explains every option".to_owned()),
    }
}

/// The names of `function NAME…` or `NAME…`. `place` is for what is to be typed instead.
fn names<'a>(words: &'a [String], command: &str, place: &args::Place) -> Result<&'a [String], Error> {
    let place = place.namespace.as_ref().map_or_else(String::new, |namespace| format!(" -n {namespace}"));
    let names = match words {
        [kind, rest @ ..] if !rest.is_empty() && ["function", "functions", "fn"].contains(&kind.as_str()) => {
            rest
        }
        [kind, name, ..] if ["revision", "revisions", "instance", "instances"].contains(&kind.as_str()) => {
            return Err(Error::Usage {
                what: format!("{command} works on functions, not on {kind}"),
                fix: match command {
                    "describe" => format!("hearth get {kind} {name}{place} -o yaml"),
                    _ => format!("hearth {command} function NAME{place}"),
                },
            });
        }
        names => names,
    };
    match names.iter().find(|name| name.contains('/')) {
        Some(name) => Err(Error::Usage {
            what: format!("{name:?} is no name"),
            fix: format!("hearth {command} function NAME -n NAMESPACE"),
        }),
        None => Ok(names),
    }
}

#[cfg(test)]
mod tests;
