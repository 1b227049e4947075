//! A few combinations among very many, in which each pair of values comes at least once.

use std::collections::BTreeSet;

/// A value of a dimension: the number of each.
type Value = (usize, usize);

/// Chooses combinations of `sizes.len()` values, the n-th below `sizes[n]`, among those
/// that are valid: each pair of values that is in one of them is in a chosen one. The
/// same is chosen each time.
pub(super) fn covering(sizes: &[usize], is_valid: impl Fn(&[usize]) -> bool) -> Vec<Vec<usize>> {
    let all = all(sizes, is_valid);
    let mut open: BTreeSet<(Value, Value)> = all.iter().flat_map(|one| pairs(one)).collect();
    let mut chosen = Vec::new();
    while !open.is_empty() {
        let gain = |one: &&Vec<usize>| pairs(one).filter(|pair| open.contains(pair)).count();
        // Of several as good the last, which differs most from the one before.
        let Some(best) = all.iter().max_by_key(gain) else {
            break;
        };
        for pair in pairs(best) {
            open.remove(&pair);
        }
        chosen.push(best.clone());
    }
    chosen
}

/// All valid combinations.
pub(super) fn all(sizes: &[usize], is_valid: impl Fn(&[usize]) -> bool) -> Vec<Vec<usize>> {
    let mut all = vec![Vec::new()];
    for size in sizes {
        let longer = all.iter().flat_map(|one: &Vec<usize>| {
            (0..*size).map(|value| [one.as_slice(), &[value]].concat())
        });
        all = longer.collect();
    }
    all.retain(|one| is_valid(one));
    all
}

/// Each two values of a combination.
fn pairs(one: &[usize]) -> impl Iterator<Item = (Value, Value)> {
    let values = one.iter().copied().enumerate();
    values
        .clone()
        .flat_map(move |first| values.clone().map(move |second| (first, second)))
        .filter(|(first, second)| first.0 < second.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_valid_pair_is_in_a_chosen_combination_and_none_is_invalid() {
        let sizes = [3, 4, 4, 5, 2];
        let is_valid = |one: &[usize]| !(one[1] == 0 && one[4] == 1);
        let chosen = covering(&sizes, is_valid);
        let wanted: BTreeSet<_> = all(&sizes, is_valid)
            .iter()
            .flat_map(|one| pairs(one))
            .collect();
        let found: BTreeSet<_> = chosen.iter().flat_map(|one| pairs(one)).collect();
        assert_eq!(found, wanted);
        assert!(chosen.iter().all(|one| is_valid(one)));
        // There are 450; fewer than 20 can't hold each behaviour with each of four.
        assert!((20..=30).contains(&chosen.len()), "{}", chosen.len());
    }
}
