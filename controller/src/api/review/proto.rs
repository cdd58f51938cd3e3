//! Access reviews as protobuf, the only form in which `kubectl auth can-i` sends them: Kubernetes' envelope and what is asked about.
//! <https://kubernetes.io/docs/reference/using-api/api-concepts/#protobuf-encoding>; the numbers are those of its `generated.proto` files.

use k8s_openapi::api::authorization::v1::{
    NonResourceAttributes, ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec,
};
use prost::Message;

/// What every such body begins with.
const MAGIC: &[u8] = b"k8s\0";

/// The envelope.
#[derive(Clone, PartialEq, Message)]
struct Unknown {
    #[prost(bytes = "vec", tag = "2")]
    raw: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
struct Review {
    #[prost(message, optional, tag = "2")]
    spec: Option<Spec>,
}

#[derive(Clone, PartialEq, Message)]
struct Spec {
    #[prost(message, optional, tag = "1")]
    resource: Option<Resource>,
    #[prost(message, optional, tag = "2")]
    non_resource: Option<NonResource>,
}

#[derive(Clone, PartialEq, Message)]
struct Resource {
    #[prost(string, optional, tag = "1")]
    namespace: Option<String>,
    #[prost(string, optional, tag = "2")]
    verb: Option<String>,
    #[prost(string, optional, tag = "3")]
    group: Option<String>,
    #[prost(string, optional, tag = "4")]
    version: Option<String>,
    #[prost(string, optional, tag = "5")]
    resource: Option<String>,
    #[prost(string, optional, tag = "6")]
    subresource: Option<String>,
    #[prost(string, optional, tag = "7")]
    name: Option<String>,
}

#[derive(Clone, PartialEq, Message)]
struct NonResource {
    #[prost(string, optional, tag = "1")]
    path: Option<String>,
    #[prost(string, optional, tag = "2")]
    verb: Option<String>,
}

/// Reads a body that begins as such a one does; `None` for any other.
///
/// # Errors
/// When it is broken.
pub(super) fn access_review(body: &[u8]) -> Option<Result<SelfSubjectAccessReview, prost::DecodeError>> {
    let review = body.strip_prefix(MAGIC).map(|body| {
        let review = Review::decode(Unknown::decode(body)?.raw.as_slice())?;
        let spec = review.spec.unwrap_or_default();
        Ok(SelfSubjectAccessReview {
            spec: SelfSubjectAccessReviewSpec {
                resource_attributes: spec.resource.map(|asked| ResourceAttributes {
                    namespace: asked.namespace,
                    verb: asked.verb,
                    group: asked.group,
                    version: asked.version,
                    resource: asked.resource,
                    subresource: asked.subresource,
                    name: asked.name,
                    ..ResourceAttributes::default()
                }),
                non_resource_attributes: spec
                    .non_resource
                    .map(|asked| NonResourceAttributes { path: asked.path, verb: asked.verb }),
            },
            ..SelfSubjectAccessReview::default()
        })
    })?;
    Some(review)
}

/// Whether a body is in this form.
pub(super) fn is_protobuf(body: &[u8]) -> bool {
    body.starts_with(MAGIC)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_review_is_read_out_of_its_envelope() {
        let asked = Resource {
            verb: Some("get".to_owned()),
            resource: Some("functions".to_owned()),
            ..Resource::default()
        };
        let review = Review { spec: Some(Spec { resource: Some(asked), non_resource: None }) };
        let body = [MAGIC, &Unknown { raw: review.encode_to_vec() }.encode_to_vec()].concat();
        let read = access_review(&body).unwrap().unwrap().spec.resource_attributes.unwrap();
        assert_eq!((read.verb.as_deref(), read.resource.as_deref()), (Some("get"), Some("functions")));
        assert!(access_review(b"{}").is_none());
        assert!(access_review(b"k8s\0\xff").unwrap().is_err());
    }
}
