//! Rings: how whole batches change hands, and what a batch is.

pub mod batch;
pub mod custody;
pub mod doorbell;
pub mod metrics;
mod pool;
#[expect(clippy::module_inception)]
mod ring;
pub mod sync;
#[cfg(test)]
mod tests;

pub use pool::Pool;
pub use ring::Ring;
