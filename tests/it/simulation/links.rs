//! What each of two hosts reaches: a store may be away for both, or for one of them only.

use super::random::Rng;
use recoup::stores::fault::{Faults, Switch};

/// The links of two hosts to three stores.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Links([[Switch; 3]; 2]);

impl Links {
    /// All of them work.
    pub(crate) const UP: Links = Links([[Switch::Up; 3]; 2]);

    /// How a store looks from a host.
    pub(crate) fn of(&self, host: usize) -> [Switch; 3] {
        self.0[host]
    }

    /// Whether a host reaches every store.
    pub(crate) fn are_up(&self, host: usize) -> bool {
        self.0[host] == [Switch::Up; 3]
    }

    /// Sets the links of a process of a host.
    pub(crate) fn apply(&self, host: usize, faults: &[Faults]) {
        faults.iter().zip(self.0[host]).for_each(|(faults, switch)| faults.switch(switch));
    }

    /// Stores go away and come back: for both hosts, or for one that the other does not hear of.
    pub(crate) fn disturb(&mut self, rng: &mut Rng, kinds: &[Switch]) {
        let (store, host) = (rng.below(3) as usize, rng.below(2) as usize);
        let kind = *rng.pick(kinds);
        match rng.below(20) {
            0..9 => *self = Links::UP,
            9..14 => self.0.iter_mut().for_each(|links| links[store] = kind),
            14..17 => self.0[host][store] = kind,
            // Each sees another part of the stores.
            17..18 => self.0 = [0; 2].map(|_| [0; 3].map(|_| *rng.pick(&[Switch::Up, Switch::Up, kind]))),
            18..19 => self.0[host] = [0; 3].map(|_| *rng.pick(&[Switch::Up, kind])),
            _ => self.0 = [[0; 3].map(|_| *rng.pick(&[Switch::Up, kind])); 2],
        }
    }
}
