//! The place of the code in an instance, which is taken once.

use std::sync::atomic::{AtomicBool, Ordering};

use hearth_function::InstanceId;

use super::Error;

/// Whether there is code at `/code`, or some is on its way: what is brought in twice lies one over the other, and nobody sees it.
#[derive(Debug)]
pub(super) struct CodePlace(AtomicBool);

impl CodePlace {
    /// That of an instance which was started with code, or without.
    pub(super) const fn new(has_code: bool) -> Self {
        Self(AtomicBool::new(has_code))
    }

    /// Takes it.
    ///
    /// # Errors
    /// When it is taken.
    pub(super) fn take(&self, instance: &InstanceId) -> Result<(), Error> {
        if self.0.swap(true, Ordering::AcqRel) {
            return Err(Error::Invalid {
                what: format!("instance {instance} has code already"),
                remedy: "inject into an instance that was started without code".to_owned(),
            });
        }
        Ok(())
    }

    /// Nothing was brought in after all. Not for a guard to do: what is cut off may still be under way.
    pub(super) fn give_back(&self) {
        self.0.store(false, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_taken_once_unless_it_is_given_back() {
        let (place, id) = (CodePlace::new(false), InstanceId::parse("one").unwrap());
        place.take(&id).unwrap();
        assert!(matches!(place.take(&id), Err(Error::Invalid { .. })));
        place.give_back();
        place.take(&id).unwrap();
        CodePlace::new(true).take(&id).unwrap_err();
    }
}
