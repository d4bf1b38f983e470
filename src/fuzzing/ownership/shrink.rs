//! Finds a short sequence of steps that still fails.

/// Leaves out steps while `fails` still returns a failure. Returns what remains, with its failure, or `None` if the
/// steps do not fail.
pub(crate) fn shrink<S: Clone, F>(steps: &[S], fails: impl Fn(&[S]) -> Option<F>) -> Option<(Vec<S>, F)> {
    let mut failure = fails(steps)?;
    let mut steps = steps.to_vec();
    let mut span = steps.len();
    while span > 0 {
        let mut at = 0;
        while at < steps.len() {
            let mut fewer = steps[..at].to_vec();
            fewer.extend_from_slice(&steps[(at + span).min(steps.len())..]);
            match fails(&fewer) {
                Some(found) => (steps, failure) = (fewer, found),
                None => at += span,
            }
        }
        span /= 2;
    }
    Some((steps, failure))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_matter_is_left_out() {
        let fails = |steps: &[u32]| (steps.contains(&7) && steps.contains(&40)).then_some(());
        let steps: Vec<_> = (0..100).collect();
        assert_eq!(shrink(&steps, fails), Some((vec![7, 40], ())));
        assert_eq!(shrink(&steps[..8], fails), None);
    }
}
