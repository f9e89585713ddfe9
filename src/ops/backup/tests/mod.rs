//! Parts of a backup by themselves; whole ones are taken in `tests/it`.

mod shipment;
