//! The line of a manifest on which a field stands.
//!
//! The YAML parser keeps no positions, so fields are looked for by their
//! indentation. That finds what is written in block style; for what is not
//! there, or in flow style, the nearest field around it is found.

/// The line, from 1, of the field at `path` in the document that begins on line
/// `first`; `path` is written as in a violation.
pub fn line_of(text: &str, first: usize, path: &str) -> usize {
    let tokens = tokens(text, first);
    let mut found = Place {
        next: 0,
        indent: None,
        line: tokens.first().map_or(first, |token| token.line),
    };
    for step in steps(path) {
        match child(&tokens, &found, &step) {
            Some(place) => found = place,
            None => break,
        }
    }
    found.line
}

/// One step of a path.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    Field(String),
    Item(usize),
}

/// `spec.topics[1]`: fields by their names, items by their numbers, and the
/// entries of maps by their keys in brackets.
fn steps(path: &str) -> Vec<Step> {
    let mut steps = Vec::new();
    let mut rest = path;
    while !rest.is_empty() {
        if let Some(inner) = rest.strip_prefix('[') {
            let (key, after) = inner.split_once(']').unwrap_or((inner, ""));
            steps.push(match key.parse() {
                Ok(number) => Step::Item(number),
                Err(_) => Step::Field(key.to_owned()),
            });
            rest = after;
        } else {
            let start = rest.strip_prefix('.').unwrap_or(rest);
            let end = start.find(['.', '[']).unwrap_or(start.len());
            steps.push(Step::Field(start[..end].to_owned()));
            rest = &start[end..];
        }
    }
    steps
}

/// A field or the dash of an item.
struct Token<'a> {
    line: usize,
    indent: usize,
    text: &'a str,
}

/// What stands in a document. `- name: a` is a dash and, further in, a field.
fn tokens(text: &str, first: usize) -> Vec<Token<'_>> {
    let mut tokens = Vec::new();
    for (index, line) in text.lines().enumerate().skip(first.saturating_sub(1)) {
        let is_marker = line.starts_with("---") || line.starts_with("...");
        if is_marker && tokens.is_empty() {
            continue;
        } else if is_marker {
            break;
        }
        let mut rest = line.trim_start();
        while let Some(after) = rest.strip_prefix("- ").or((rest == "-").then_some("")) {
            tokens.push(Token {
                line: index + 1,
                indent: line.len() - rest.len(),
                text: "-",
            });
            rest = after.trim_start();
        }
        if !rest.is_empty() && !rest.starts_with('#') {
            tokens.push(Token {
                line: index + 1,
                indent: line.len() - rest.len(),
                text: rest,
            });
        }
    }
    tokens
}

/// Where a search goes on.
struct Place {
    /// The first token below.
    next: usize,
    /// The indentation of the field or dash; the document itself has none.
    indent: Option<usize>,
    line: usize,
}

fn child(tokens: &[Token<'_>], parent: &Place, step: &Step) -> Option<Place> {
    let below = &tokens[parent.next..];
    let indent = below.first()?.indent;
    // Items may stand as far out as the field that holds them.
    let inside = |token: &Token<'_>| match parent.indent {
        None => true,
        Some(outer) if token.text == "-" && matches!(step, Step::Item(_)) => token.indent >= outer,
        Some(outer) => token.indent > outer,
    };
    let end = below
        .iter()
        .position(|token| token.indent < indent || !inside(token) && token.indent == indent)
        .unwrap_or(below.len());
    let mut siblings = below[..end]
        .iter()
        .enumerate()
        .filter(|(_, token)| token.indent == indent && inside(token));
    let (index, token) = match step {
        Step::Field(name) => siblings.find(|(_, token)| is_field(token.text, name))?,
        Step::Item(number) => siblings
            .filter(|(_, token)| token.text == "-")
            .nth(*number)?,
    };
    Some(Place {
        next: parent.next + index + 1,
        indent: Some(token.indent),
        line: token.line,
    })
}

fn is_field(text: &str, name: &str) -> bool {
    let quoted = ["", "\"", "'"];
    quoted.iter().any(|quote| {
        let after = text
            .strip_prefix(quote)
            .and_then(|text| text.strip_prefix(name))
            .and_then(|text| text.strip_prefix(quote));
        after.is_some_and(|after| after.trim_start().starts_with(':'))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "\
# a comment
kind: ConfigMap
---
apiVersion: penstock.dev/v1alpha1
metadata: {name: orders}
spec:
  topics:
  - orders
  - returns

  kafka:
    config:
      # another
      fetch.min.bytes: '1'
      \"fetch.max.bytes\": '2'
  handler:
    env:
      - name: A
        value: a
      -
        name: B
        value: b
  mode: Fast
---
spec:
  mode: InOrder
";

    fn line(path: &str) -> usize {
        line_of(TEXT, 4, path)
    }

    #[test]
    fn fields_items_and_entries_are_found() {
        assert_eq!(line("apiVersion"), 4);
        assert_eq!(line("spec"), 6);
        assert_eq!(line("spec.topics[0]"), 8);
        assert_eq!(line("spec.topics[1]"), 9);
        assert_eq!(line("spec.kafka.config[fetch.min.bytes]"), 14);
        assert_eq!(line("spec.kafka.config[fetch.max.bytes]"), 15);
        assert_eq!(line("spec.handler.env[0].value"), 19);
        assert_eq!(line("spec.handler.env[1].name"), 21);
        assert_eq!(line("spec.mode"), 23);
    }

    #[test]
    fn what_is_not_there_is_placed_at_what_would_hold_it() {
        assert_eq!(line("spec.group"), 6);
        assert_eq!(line("metadata.name"), 5);
        assert_eq!(line("spec.topics[7]"), 7);
        assert_eq!(line("spec.handler.image"), 16);
        assert_eq!(line("kind"), 4);
    }

    #[test]
    fn a_document_ends_where_the_next_begins() {
        assert_eq!(line_of(TEXT, 25, "spec.mode"), 26);
        assert_eq!(line_of(TEXT, 1, "spec.mode"), 2);
        assert_eq!(line_of("", 1, "spec"), 1);
    }
}
