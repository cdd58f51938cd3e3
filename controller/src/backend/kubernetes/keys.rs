//! What an instance is known by: its secret, and the token of its reports. Both follow from the cluster key and the instance's name, so that
//! every controller that has the key knows them, and no object holds them but the instance's own Pod its token. And what proves that a
//! specification is as a controller wrote it: its seal.

use hearth_function::{InstanceId, hex};
use ring::hmac;

/// The cluster key.
pub(super) struct Keys(hmac::Key);

impl std::fmt::Debug for Keys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Keys")
    }
}

impl Keys {
    pub(super) fn new(key: &[u8; 32]) -> Self {
        Self(hmac::Key::new(hmac::HMAC_SHA256, key))
    }

    /// Who opens a connection to the instance must know this.
    pub(super) fn secret(&self, instance: &InstanceId) -> String {
        hex(self.sign("secret", instance.as_str()).as_ref())
    }

    /// The shim proves by it which instance it is.
    pub(super) fn token(&self, instance: &InstanceId) -> String {
        hex(self.sign("token", instance.as_str()).as_ref())
    }

    /// Whether this is the token of the instance of that name. Takes as long for every wrong one.
    pub(super) fn is_token(&self, instance: &str, token: &str) -> bool {
        self.is_signed(&text("token", instance), token)
    }

    /// Kept beside the specification of the Pod of that name in that namespace: nobody without the key changes it, or has it from another Pod.
    pub(super) fn seal(&self, namespace: &str, instance: &str, specification: &str) -> String {
        hex(hmac::sign(&self.0, sealed(namespace, instance, specification).as_bytes()).as_ref())
    }

    /// Whether it is that. Takes as long for every wrong one.
    pub(super) fn is_seal(&self, namespace: &str, instance: &str, specification: &str, seal: &str) -> bool {
        self.is_signed(&sealed(namespace, instance, specification), seal)
    }

    fn is_signed(&self, text: &str, tag: &str) -> bool {
        let bytes: Option<Vec<u8>> =
            (0..tag.len()).step_by(2).map(|at| u8::from_str_radix(tag.get(at..at + 2)?, 16).ok()).collect();
        bytes.is_some_and(|bytes| hmac::verify(&self.0, text.as_bytes(), &bytes).is_ok())
    }

    fn sign(&self, what: &str, instance: &str) -> hmac::Tag {
        hmac::sign(&self.0, text(what, instance).as_bytes())
    }
}

/// A name has no line break: no two questions look the same.
fn text(what: &str, instance: &str) -> String {
    format!("hearth instance {what}\n{instance}")
}

/// The specification comes last: it may hold anything.
fn sealed(namespace: &str, instance: &str, specification: &str) -> String {
    format!("hearth instance specification\n{namespace}\n{instance}\n{specification}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_good_for_its_instance_and_no_secret() {
        let keys = Keys::new(&[7; 32]);
        let [a, b] = ["a", "b"].map(|name| InstanceId::parse(name).unwrap());
        let token = keys.token(&a);
        assert!(keys.is_token("a", &token));
        assert!(!keys.is_token("b", &token));
        assert!(!Keys::new(&[8; 32]).is_token("a", &token));
        for wrong in ["", "0", "zz", "ü0", &keys.secret(&a), &token[2..]] {
            assert!(!keys.is_token("a", wrong), "{wrong}");
        }
        assert!(!keys.is_token("a", &keys.seal("", "a", "")));
        assert_eq!(keys.secret(&a).len(), 64);
        assert_ne!(keys.secret(&a), keys.secret(&b));
    }

    #[test]
    fn a_seal_is_of_one_specification_of_one_pod() {
        let keys = Keys::new(&[7; 32]);
        let seal = keys.seal("default", "a", "{}");
        assert!(keys.is_seal("default", "a", "{}", &seal));
        assert!(!Keys::new(&[8; 32]).is_seal("default", "a", "{}", &seal));
        for (namespace, instance, specification) in
            [("other", "a", "{}"), ("default", "b", "{}"), ("default", "a", "{ }"), ("default\na", "{}", "")]
        {
            assert!(!keys.is_seal(namespace, instance, specification, &seal), "{namespace} {instance}");
        }
        assert!(!keys.is_seal("default", "a", "{}", ""));
    }
}
