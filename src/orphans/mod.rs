//! What is left on this host and nobody will ask for again.
//!
//! A server that loses a guest in the middle of a destroy sends no more commands for it: its volume,
//! its config drive, its bridge stay. This module finds such things and, when asked by name, removes
//! them. Nothing is ever removed by itself.

pub mod touched;
