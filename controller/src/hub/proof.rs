//! How hub and gateway know each other: each proves that it knows the cluster key, over random numbers of both.

use ring::hmac;

/// A random number that is used once.
pub(crate) type Nonce = [u8; 32];

/// Which side proves.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Side {
    Gateway,
    Hub,
}

/// A new one.
pub(crate) fn nonce() -> Nonce {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).expect("the kernel gives random bytes once it has booted");
    bytes
}

/// The proof of one side. `name` is the gateway's.
pub(crate) fn prove(key: &[u8; 32], side: Side, hub: &Nonce, gateway: &Nonce, name: &str) -> [u8; 32] {
    let mut proof = [0; 32];
    proof.copy_from_slice(context(key, side, hub, gateway, name).sign().as_ref());
    proof
}

/// Whether it is one; compared in constant time.
pub(crate) fn is_proof(
    key: &[u8; 32],
    side: Side,
    hub: &Nonce,
    gateway: &Nonce,
    name: &str,
    proof: &[u8; 32],
) -> bool {
    use subtle::ConstantTimeEq;
    prove(key, side, hub, gateway, name).ct_eq(proof).into()
}

/// The side goes into it, so that no proof is good for the other; the name last, for its length is not fixed.
fn context(key: &[u8; 32], side: Side, hub: &Nonce, gateway: &Nonce, name: &str) -> hmac::Context {
    let key = hmac::Key::new(hmac::HMAC_SHA256, key);
    let mut context = hmac::Context::with_key(&key);
    context.update(match side {
        Side::Gateway => b"hearth link v1: gateway".as_slice(),
        Side::Hub => b"hearth link v1: hub    ".as_slice(),
    });
    context.update(hub);
    context.update(gateway);
    context.update(name.as_bytes());
    context
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proof_is_good_for_one_side_one_name_and_one_pair_of_numbers() {
        let (key, hub, gateway) = ([7; 32], nonce(), nonce());
        let proof = prove(&key, Side::Gateway, &hub, &gateway, "a");
        assert!(is_proof(&key, Side::Gateway, &hub, &gateway, "a", &proof));
        assert!(!is_proof(&key, Side::Hub, &hub, &gateway, "a", &proof));
        assert!(!is_proof(&key, Side::Gateway, &hub, &gateway, "b", &proof));
        assert!(!is_proof(&key, Side::Gateway, &gateway, &hub, "a", &proof));
        assert!(!is_proof(&[8; 32], Side::Gateway, &hub, &gateway, "a", &proof));
    }
}
