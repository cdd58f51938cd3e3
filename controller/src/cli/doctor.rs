//! `hearth doctor`: what this machine can and cannot do, and how to get it.

use super::args::{Client, Doctor};
use super::client::Server;
use super::error::Error;
use super::out::{self, Paint};
use crate::backend::Capability;

/// Runs the command: asks the server that runs here, or looks itself when there is none.
pub(super) async fn run(arguments: Doctor) -> Result<(), Error> {
    let config = super::configuration(&arguments.server)?.config;
    let client = Client { kubeconfig: None, data_dir: Some(config.main.data_dir.display().to_string()) };
    let asked = match Server::find(&client).await {
        Ok(server) => server.get::<Vec<Capability>>("/capabilities").await.ok(),
        Err(_) => None,
    };
    let capabilities = match asked {
        Some(capabilities) => capabilities,
        None => crate::serve::probe(&config).await,
    };
    match arguments.output.form {
        Some(format) => out::object(&capabilities, format)?,
        None => out::text(&page(&capabilities))?,
    }
    if capabilities.iter().all(|capability| capability.works) { Ok(()) } else { Err(Error::Shown) }
}

fn page(capabilities: &[Capability]) -> String {
    let width =
        capabilities.iter().map(|capability| capability.name.chars().count()).max().unwrap_or_default();
    let mut page = String::new();
    for capability in capabilities {
        let mark =
            if capability.works { out::paint("yes", Paint::Good) } else { out::paint("no ", Paint::Bad) };
        page.push_str(&format!("{mark}  {:<width$}  {}\n", capability.name, capability.detail));
        if let Some(remedy) = capability.remedy.as_ref().filter(|_| !capability.works) {
            page.push_str(&format!("     {:<width$}  fix: {remedy}\n", ""));
        }
    }
    page
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_comes_with_its_remedy() {
        let capability = |name: &str, works, remedy: Option<&str>| Capability {
            name: name.to_owned(),
            works,
            detail: "detail".to_owned(),
            remedy: remedy.map(str::to_owned),
        };
        let page = page(&[
            capability("root", true, None),
            capability("node", false, Some("install Node.js 20 or later")),
        ]);
        assert_eq!(
            page,
            "yes  root  detail\nno   node  detail\n           fix: install Node.js 20 or later\n"
        );
    }
}
