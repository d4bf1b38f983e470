//! Rings and doorbells in one process.

mod doorbell;
mod ring;
