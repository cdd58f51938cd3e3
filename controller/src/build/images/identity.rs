//! Identity tokens, which some registries have Docker keep in place of a password: each is exchanged for a token of the registry's that
//! lasts some minutes, at the address that the registry itself names (OAuth 2, as registries speak it).

use std::time::Duration;

use futures_util::StreamExt as _;
use http_auth::ChallengeParser;
use reqwest::{Client, StatusCode, Url, header};
use serde::Deserialize;

use super::credentials::Registry;

/// How long a registry may take to accept a connection.
const CONNECT: Duration = Duration::from_secs(10);

/// How long each of the two requests may take.
const WITHIN: Duration = Duration::from_secs(30);

/// Largest answer, in bytes. Tokens have some thousands.
const LARGEST_ANSWER: usize = 1 << 20;

/// What a token is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    Pull,
    Push,
}

/// Why there is no token.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    /// The registry, or who gives its tokens, does not answer.
    #[error("no answer")]
    Away(#[source] reqwest::Error),
    /// The registry does not take such tokens.
    #[error("it names nobody who would take an identity token")]
    NotAsked,
    /// The token would have to go over a line that others can listen to.
    #[error("it has an identity token sent to {0}, which is no https")]
    InTheClear(String),
    /// The identity token is not, or no longer, good.
    #[error("{who} answered {status}")]
    Refused {
        /// The host that was asked.
        who: String,
        /// What it answered.
        status: StatusCode,
    },
    /// The answer cannot be read.
    #[error("{0} sent an answer without a token")]
    Garbled(String),
}

/// Where tokens of a registry are had.
#[derive(Debug, PartialEq, Eq)]
struct Giver {
    realm: String,
    service: Option<String>,
}

/// Either name is in use.
#[derive(Deserialize)]
struct Answer {
    access_token: Option<String>,
    token: Option<String>,
}

/// A token of the registry's for one of its repositories.
///
/// # Errors
/// When the registry does not want such a token, or does not take this one.
pub(super) async fn exchange(
    registry: &Registry<'_>,
    purpose: Purpose,
    identity: &str,
) -> Result<String, Error> {
    let mut builder = Client::builder()
        .connect_timeout(CONNECT)
        .user_agent(concat!("hearth/", env!("CARGO_PKG_VERSION")))
        // A token goes to whom the registry named, and to nobody that that one names.
        .redirect(reqwest::redirect::Policy::none());
    if registry.plain {
        builder = builder.no_proxy();
    }
    let client = builder.build().map_err(Error::Away)?;
    let scheme = if registry.plain { "http" } else { "https" };
    let asked = client
        .get(format!("{scheme}://{}/v2/", registry.host))
        .timeout(WITHIN)
        .send()
        .await
        .map_err(Error::Away)?;
    let challenges = asked.headers().get_all(header::WWW_AUTHENTICATE).iter();
    let giver = challenges.filter_map(|value| giver(value.to_str().ok()?)).next().ok_or(Error::NotAsked)?;
    let url: Url = giver.realm.parse().map_err(|_| Error::NotAsked)?;
    let who = url.host_str().unwrap_or_default().to_owned();
    if url.scheme() != "https" && !registry.plain {
        return Err(Error::InTheClear(who));
    }
    let request = client
        .post(url)
        .timeout(WITHIN)
        .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded")
        .body(form(&giver, registry.repository, purpose, identity));
    let answered = request.send().await.map_err(Error::Away)?;
    let status = answered.status();
    if !status.is_success() {
        return Err(Error::Refused { who, status });
    }
    let mut bytes = Vec::new();
    let mut stream = answered.bytes_stream();
    while let Some(chunk) = stream.next().await {
        bytes.extend_from_slice(&chunk.map_err(Error::Away)?);
        if bytes.len() > LARGEST_ANSWER {
            return Err(Error::Garbled(who));
        }
    }
    let answer: Option<Answer> = serde_json::from_slice(&bytes).ok();
    answer.and_then(|answer| answer.access_token.or(answer.token)).ok_or(Error::Garbled(who))
}

/// Who is named in a `WWW-Authenticate`.
fn giver(header: &str) -> Option<Giver> {
    let challenge =
        ChallengeParser::new(header).flatten().find(|one| one.scheme.eq_ignore_ascii_case("bearer"))?;
    let parameter = |name: &str| {
        let found = challenge.params.iter().find(|(key, _)| key.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.to_unescaped())
    };
    Some(Giver { realm: parameter("realm")?, service: parameter("service") })
}

fn form(giver: &Giver, repository: &str, purpose: Purpose, identity: &str) -> String {
    let actions = match purpose {
        Purpose::Pull => "pull",
        Purpose::Push => "pull,push",
    };
    let scope = format!("repository:{repository}:{actions}");
    let pairs = [
        ("grant_type", "refresh_token"),
        ("refresh_token", identity),
        ("client_id", "hearth"),
        ("scope", &scope),
    ];
    let mut form = form_urlencoded::Serializer::new(String::new());
    form.extend_pairs(pairs).extend_pairs(giver.service.iter().map(|service| ("service", service)));
    form.finish()
}

#[cfg(test)]
mod tests {
    use axum::extract::State;
    use axum::http::StatusCode as Status;
    use axum::response::IntoResponse as _;
    use axum::routing::{get, post};
    use hyper::server::conn::http1;
    use hyper_util::rt::TokioIo;
    use hyper_util::service::TowerToHyperService;
    use tokio_util::task::AbortOnDropHandle;

    use super::*;

    /// A registry and its giver of tokens, on a port of its own.
    async fn registry(realm: &str) -> (String, AbortOnDropHandle<()>) {
        rustls::crypto::ring::default_provider().install_default().ok();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let host = listener.local_addr().unwrap().to_string();
        let realm = realm.replace("BASE", &format!("http://{host}"));
        let ask = async |State(realm): State<String>| {
            let challenge = format!("Bearer realm=\"{realm}\",service=\"registry.test\"");
            (Status::UNAUTHORIZED, [("www-authenticate", challenge)])
        };
        let give = async |body: String| {
            let has = |pair: &str| body.split('&').any(|one| one == pair);
            if !has("refresh_token=kept%2B1") {
                return Status::UNAUTHORIZED.into_response();
            }
            assert!(has("grant_type=refresh_token") && has("service=registry.test"), "{body}");
            let scope = body.split('&').find_map(|pair| pair.strip_prefix("scope=")).unwrap();
            format!(r#"{{"access_token":"for {scope}"}}"#).into_response()
        };
        let router = axum::Router::new()
            .route("/v2/", get(ask))
            .route("/token", post(give))
            .route("/garbled", post(async || "{}"))
            .with_state(realm);
        #[expect(clippy::disallowed_methods, reason = "ended with the handle that is returned")]
        let serving = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let service = TowerToHyperService::new(router.clone());
                http1::Builder::new().serve_connection(TokioIo::new(stream), service).await.ok();
            }
        });
        (host, AbortOnDropHandle::new(serving))
    }

    async fn token(host: &str, purpose: Purpose, identity: &str) -> Result<String, Error> {
        exchange(&Registry { host, plain: true, repository: "team/app" }, purpose, identity).await
    }

    #[tokio::test]
    async fn an_identity_token_is_exchanged_for_what_is_to_be_done() {
        let (host, _serving) = registry("BASE/token").await;
        let pull = token(&host, Purpose::Pull, "kept+1").await.unwrap();
        assert_eq!(pull, "for repository%3Ateam%2Fapp%3Apull");
        let push = token(&host, Purpose::Push, "kept+1").await.unwrap();
        assert_eq!(push, "for repository%3Ateam%2Fapp%3Apull%2Cpush");
        let refused = token(&host, Purpose::Pull, "old").await.unwrap_err();
        assert!(matches!(refused, Error::Refused { status: StatusCode::UNAUTHORIZED, .. }), "{refused}");
    }

    #[tokio::test]
    async fn a_registry_that_does_not_play_along_is_told() {
        let (host, _serving) = registry("BASE/garbled").await;
        let garbled = token(&host, Purpose::Pull, "kept+1").await.unwrap_err();
        assert!(matches!(garbled, Error::Garbled(_)), "{garbled}");
        let (host, serving) = registry("nowhere").await;
        let nobody = token(&host, Purpose::Pull, "kept+1").await.unwrap_err();
        assert!(matches!(nobody, Error::NotAsked), "{nobody}");
        drop(serving);
        assert_eq!(giver("Basic realm=\"x\""), None);
        let giver = giver("Basic realm=\"x\", bearer Realm=\"https://auth.test/t\"").unwrap();
        assert_eq!(giver, Giver { realm: "https://auth.test/t".to_owned(), service: None });
    }
}
