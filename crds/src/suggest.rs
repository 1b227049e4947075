//! "Did you mean": the nearest of the names that exist.

/// The longest text that is compared, in bytes. The time and memory of a comparison grow with
/// its length.
const MAX_LENGTH: usize = 500;

/// The candidate that is most like `given`, when it is like it at all: at most a
/// third of the letters may differ.
pub(crate) fn nearest<'a>(
    given: &str,
    candidates: impl IntoIterator<Item = &'a str>,
) -> Option<&'a str> {
    if given.len() > MAX_LENGTH {
        return None;
    }
    let lower = given.to_lowercase();
    candidates
        .into_iter()
        .map(|candidate| {
            let distance = strsim::damerau_levenshtein(&lower, &candidate.to_lowercase());
            (distance, candidate)
        })
        .min_by_key(|(distance, _)| *distance)
        .filter(|(distance, candidate)| *distance <= candidate.chars().count().max(3) / 3)
        .map(|(_, candidate)| candidate)
}

/// `; did you mean 'x'?`, or nothing when nothing is near.
pub(crate) fn did_you_mean<'a>(
    given: &str,
    candidates: impl IntoIterator<Item = &'a str>,
) -> String {
    match nearest(given, candidates) {
        Some(candidate) => format!("; did you mean '{candidate}'?"),
        None => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_of_the_keys_finds_the_name_that_was_meant() {
        let fields = ["port", "protocol", "path"];
        assert_eq!(nearest("prot", fields), Some("port"));
        assert_eq!(nearest("Protocoll", fields), Some("protocol"));
    }

    #[test]
    fn something_else_entirely_finds_nothing() {
        assert_eq!(nearest("colour", ["port", "protocol", "path"]), None);
    }
}
