//! What handlers take out of a request, each refused with an answer that a Kubernetes client understands.

use axum::body::Body;
use axum::extract::{FromRequest, FromRequestParts, Path, Query};
use bytes::Bytes;
use http::Request;
use http::request::Parts;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::body;
use super::failure::Failure;
use super::patch::Form;

/// The parameters of a request.
#[derive(Debug)]
pub(super) struct Params<T>(pub(super) T);

/// The whole body of a request that carries an object.
#[derive(Debug)]
pub(super) struct Sent(pub(super) Bytes);

/// The object that a path names; a collection has no name.
#[derive(Debug, Deserialize)]
pub(super) struct Place {
    pub(super) namespace: String,
    #[serde(default)]
    pub(super) name: String,
}

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for Params<T> {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Failure> {
        let asked = Query::try_from_uri(&parts.uri);
        asked.map(|Query(asked)| Self(asked)).map_err(|error| Failure::bad_request(&error.body_text()))
    }
}

impl<S: Send + Sync> FromRequest<S> for Sent {
    type Rejection = Failure;

    async fn from_request(request: Request<Body>, _: &S) -> Result<Self, Failure> {
        body::object(request.into_body()).await.map(Self)
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Place {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Failure> {
        let found = Path::<Self>::from_request_parts(parts, state).await;
        found.map(|Path(place)| place).map_err(|error| Failure::bad_request(&error.body_text()))
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Form {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Failure> {
        Self::of(&parts.headers)
    }
}
