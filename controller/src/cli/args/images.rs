//! Images of functions and runtimes: what can be typed.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::{Client, Output};

/// Where a built image goes.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Where the image goes")]
pub(in crate::cli) struct Destination {
    /// Into an OCI layout directory
    #[arg(long, value_name = "oci:DIR", value_parser = oci_directory)]
    pub(in crate::cli) output: Option<PathBuf>,
    /// To a registry, with the credentials of `docker login`
    #[arg(long, value_name = "REFERENCE")]
    pub(in crate::cli) push: Option<String>,
    /// The registry speaks plain HTTP, and it is not on this machine's loopback
    #[arg(long)]
    pub(in crate::cli) plain_http: bool,
    /// Into the local engine, under this name [default: the function's]
    #[arg(long, value_name = "NAME", num_args = 0..=1, default_missing_value = "")]
    pub(in crate::cli) load: Option<String>,
    /// Where layers and dependencies are kept for the next time [default: ~/.cache/hearth]
    #[arg(long, value_name = "DIR", env = "HEARTH_CACHE", hide_env_values = true)]
    pub(in crate::cli) cache_dir: Option<PathBuf>,
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
pub(in crate::cli) struct Build {
    /// Manifest, or directory of manifests
    #[arg(value_name = "DIR|FILE")]
    pub(in crate::cli) path: PathBuf,
    /// Which function, where there are several
    #[arg(long, value_name = "NAME")]
    pub(in crate::cli) function: Option<String>,
    /// Upon what it is built: a reference, an OCI layout directory as oci:DIR, or an archive of `docker save`
    #[arg(long, value_name = "IMAGE")]
    pub(in crate::cli) base: Option<String>,
    /// Where it goes.
    #[command(flatten)]
    pub(in crate::cli) destination: Destination,
}

/// `hearth runtimes`.
#[derive(Debug, Args)]
pub(in crate::cli) struct Runtimes {
    /// How it is printed.
    #[command(flatten)]
    pub(in crate::cli) output: Output,
}

/// `hearth runtime`.
#[derive(Debug, Subcommand)]
pub(in crate::cli) enum Runtime {
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
pub(in crate::cli) struct RuntimeFiles {
    /// A directory that is not there yet
    pub(in crate::cli) directory: PathBuf,
}

/// `hearth runtime from-host`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  hearth runtime from-host nodejs --output oci:nodejs
  hearth runtime from-host python3.11 --push registry.example.com/runtimes/python:3.11")]
pub(in crate::cli) struct FromHost {
    /// `nodejs`, `nodejs22`, `python`, `python3.12`
    pub(in crate::cli) runtime: String,
    /// Where it goes.
    #[command(flatten)]
    pub(in crate::cli) destination: Destination,
}

/// `hearth image`.
#[derive(Debug, Subcommand)]
pub(in crate::cli) enum Image {
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
  hearth image load oci:layout             an OCI layout directory, as hearth build and skopeo make it; ./layout too
  docker save app:1 -o app.tar && hearth image load app.tar
  hearth image load app.tar                an OCI archive too

Only the layers that the server lacks are sent. Each image is named by the digest of its manifest: sha256:…")]
pub(in crate::cli) struct LoadImage {
    /// OCI layout directory, OCI archive, or what `docker save` wrote
    #[arg(value_name = "[oci:]DIR|FILE", value_parser = image_path)]
    pub(in crate::cli) path: PathBuf,
    /// Which server.
    #[command(flatten)]
    pub(in crate::cli) client: Client,
}

/// `hearth image push`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  hearth image push ./layout registry.example.com/team/app:1

Credentials are those of `docker login` (~/.docker/config.json). What the registry has already is not sent again.")]
pub(in crate::cli) struct PushImage {
    /// OCI layout directory, OCI archive, or what `docker save` wrote
    #[arg(value_name = "[oci:]DIR|FILE", value_parser = image_path)]
    pub(in crate::cli) path: PathBuf,
    /// Where it goes
    #[arg(value_name = "REFERENCE")]
    pub(in crate::cli) reference: String,
    /// The registry speaks plain HTTP, and it is not on this machine's loopback
    #[arg(long)]
    pub(in crate::cli) plain_http: bool,
}

/// `hearth image list`.
#[derive(Debug, Args)]
pub(in crate::cli) struct ListImages {
    /// How it is printed.
    #[command(flatten)]
    pub(in crate::cli) output: Output,
    /// Which server.
    #[command(flatten)]
    pub(in crate::cli) client: Client,
}

/// A path, as `--output` has it too: what `hearth build --output oci:DIR` wrote is `oci:DIR` here.
fn image_path(text: &str) -> Result<PathBuf, String> {
    if text.starts_with("oci:") && !std::path::Path::new(text).exists() {
        return oci_directory(text);
    }
    Ok(PathBuf::from(text))
}

fn oci_directory(text: &str) -> Result<PathBuf, String> {
    match text.strip_prefix("oci:") {
        Some(path) if !path.is_empty() => Ok(PathBuf::from(path)),
        _ => Err("give the form and the directory, as in oci:out".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_on_the_disk_may_be_named_as_it_was_written() {
        for (text, path) in [("oci:out", "out"), ("./out", "./out"), ("app.tar", "app.tar")] {
            assert_eq!(image_path(text), Ok(PathBuf::from(path)));
        }
        assert!(image_path("oci:").is_err());
    }
}
