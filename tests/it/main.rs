//! The one integration test binary.
#![allow(clippy::unwrap_used, reason = "what goes wrong here fails a test, and shall say where")]

mod bad_input;
mod choosing;
mod cli_output;
mod cli_parse;
mod copying;
mod crash;
mod damage;
mod demo;
mod docs;
mod doctor;
mod durability;
mod evidence;
mod forgery;
mod full_disk;
mod golden;
mod house;
mod keys;
mod kill;
mod known_damage;
mod listing;
mod manpages;
mod needs;
mod policies;
mod recover;
mod s3;
mod schedules;
mod signatures;
mod simulation;
mod site;
mod sqlite_live;
mod stores;
mod support;
mod tidy;
mod writing;
mod zz_left_out;
