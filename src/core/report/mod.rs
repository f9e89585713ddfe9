//! The signed restore-verification report: what it says, what follows from that, and how it looks.
//!
//! Three layers. What signed records say can be made again from the records that the report quotes. What follows is
//! made again from the report alone. The page is made from the report alone, too. A verifier does all three.

pub mod build;
mod changes;
mod derive;
mod drills;
mod exposure;
mod findings;
pub mod html;
mod limits;
mod model;
mod readme;
mod verdict;
mod words;

pub use build::{Facts, OpenedBody, RecordFact};
pub use derive::{Calendar, Derived, Slot, SlotState, Statistics, StoreDrilled, derive};
pub use drills::FromRecords;
pub use exposure::{Exposure, Gap, Peak, peaks};
pub use model::*;
pub use readme::readme;
