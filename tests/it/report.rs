//! Reports: what they say of fixed facts, how they look, and the real program with stock tools.

mod facts;
mod model;
mod page;
mod program;
