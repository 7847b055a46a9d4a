//! From RE2's syntax to that of Rust's engine.

use regex_syntax::ast::{
    self, Ast, ClassPerl, ClassPerlKind, ClassSetItem, FlagsItemKind, RepetitionKind, RepetitionRange,
    Visitor,
};

use super::super::Refusal;

/// What came of a pattern.
pub(super) struct Rewritten {
    /// The pattern for Rust's engine.
    pub(super) pattern: String,
    /// How many groups it captures.
    pub(super) groups: usize,
    /// Roughly how many instructions it compiles to.
    pub(super) weight: u64,
}

/// `pattern`, of which `ast` is the tree, with RE2's meaning.
pub(super) fn rewrite(pattern: &str, ast: &Ast) -> Result<Rewritten, Refusal> {
    let Rewriter { edits, groups, weight, .. } = ast::visit(ast, Rewriter::default())?;
    let mut rewritten = String::with_capacity(pattern.len());
    let mut done = 0;
    for (start, end, text) in edits {
        rewritten.push_str(pattern.get(done..start).unwrap_or_default());
        rewritten.push_str(text);
        done = end;
    }
    rewritten.push_str(pattern.get(done..).unwrap_or_default());
    Ok(Rewritten { pattern: rewritten, groups, weight })
}

/// Finds what RE2 reads differently.
#[derive(Default)]
struct Rewriter {
    /// Byte ranges to replace, in order.
    edits: Vec<(usize, usize, &'static str)>,
    groups: usize,
    weight: u64,
    /// Repetitions around the current place; what is in them is compiled as often as all of them multiplied.
    repetitions: Vec<u32>,
}

impl Rewriter {
    fn replace(&mut self, span: &ast::Span, text: &'static str) {
        self.edits.push((span.start.offset, span.end.offset, text));
    }

    fn weigh(&mut self, weight: u64) {
        let times =
            self.repetitions.iter().fold(1, |times: u64, most| times.saturating_mul(u64::from(*most)));
        self.weight = self.weight.saturating_add(weight.saturating_mul(times));
    }

    fn enter(&mut self, repetition: &ast::Repetition) -> Result<(), Refusal> {
        let most = match &repetition.op.kind {
            RepetitionKind::Range(
                RepetitionRange::Exactly(most)
                | RepetitionRange::AtLeast(most)
                | RepetitionRange::Bounded(_, most),
            ) => *most,
            _ => 1,
        };
        if most > REPETITIONS {
            return Err(Refusal::new(format!("a part may be repeated {REPETITIONS} times at most")));
        }
        if let Ast::Repetition(_) = *repetition.ast {
            let reason = "RE2 has no repetition of a repetition";
            return Err(Refusal::with_hint(reason, "put the inner one into parentheses"));
        }
        self.repetitions.push(most.max(1));
        Ok(())
    }

    fn flags(flags: &ast::Flags) -> Result<(), Refusal> {
        let foreign = flags.items.iter().any(|item| {
            matches!(
                item.kind,
                FlagsItemKind::Flag(ast::Flag::IgnoreWhitespace | ast::Flag::CRLF | ast::Flag::Unicode)
            )
        });
        if foreign {
            return Err(Refusal::with_hint("RE2 does not have this flag", "its flags are i, m, s and U"));
        }
        Ok(())
    }
}

impl Visitor for Rewriter {
    type Output = Self;
    type Err = Refusal;

    fn finish(self) -> Result<Self, Refusal> {
        Ok(self)
    }

    fn visit_pre(&mut self, ast: &Ast) -> Result<(), Refusal> {
        self.weigh(1);
        match ast {
            Ast::Flags(set) => Self::flags(&set.flags)?,
            Ast::Group(group) => {
                if let Some(flags) = group.flags() {
                    Self::flags(flags)?;
                }
                self.groups += usize::from(group.is_capturing());
            }
            Ast::Repetition(repetition) => self.enter(repetition)?,
            Ast::Dot(_) => self.weigh(DOT),
            Ast::ClassUnicode(_) => self.weigh(SCRIPT),
            Ast::ClassPerl(class) => self.replace(&class.span, outside(class)),
            Ast::Assertion(assertion) => match assertion.kind {
                ast::AssertionKind::WordBoundary => self.replace(&assertion.span, r"(?-u:\b)"),
                ast::AssertionKind::NotWordBoundary => self.replace(&assertion.span, r"(?-u:\B)"),
                ast::AssertionKind::StartLine
                | ast::AssertionKind::EndLine
                | ast::AssertionKind::StartText
                | ast::AssertionKind::EndText => {}
                _ => return Err(Refusal::new("RE2 has no word boundaries but \\b and \\B")),
            },
            _ => {}
        }
        Ok(())
    }

    fn visit_post(&mut self, ast: &Ast) -> Result<(), Refusal> {
        if let Ast::Repetition(_) = ast {
            self.repetitions.pop();
        }
        Ok(())
    }

    fn visit_class_set_item_pre(&mut self, item: &ClassSetItem) -> Result<(), Refusal> {
        self.weigh(1);
        match item {
            ClassSetItem::Unicode(_) => self.weigh(SCRIPT),
            ClassSetItem::Perl(class) => self.replace(&class.span, inside(class)),
            ClassSetItem::Bracketed(_) => {
                return Err(Refusal::with_hint("RE2 has no class within a class", "write \\[ for a bracket"));
            }
            _ => {}
        }
        Ok(())
    }

    fn visit_class_set_binary_op_pre(&mut self, _: &ast::ClassSetBinaryOp) -> Result<(), Refusal> {
        let hint = "write \\&, \\- or \\~ where two of them are meant";
        Err(Refusal::with_hint("RE2 has no operations on classes", hint))
    }
}

/// RE2 knows the digits, spaces and letters of ASCII only.
fn outside(class: &ClassPerl) -> &'static str {
    match (&class.kind, class.negated) {
        (ClassPerlKind::Digit, false) => "[0-9]",
        (ClassPerlKind::Digit, true) => "[^0-9]",
        (ClassPerlKind::Space, false) => r"[\t\n\f\r ]",
        (ClassPerlKind::Space, true) => r"[^\t\n\f\r ]",
        (ClassPerlKind::Word, false) => "[0-9A-Za-z_]",
        (ClassPerlKind::Word, true) => "[^0-9A-Za-z_]",
    }
}

/// As [`outside`], for a place in a class, which may hold another.
fn inside(class: &ClassPerl) -> &'static str {
    match (&class.kind, class.negated) {
        (ClassPerlKind::Digit, false) => "0-9",
        (ClassPerlKind::Space, false) => r"\t\n\f\r ",
        (ClassPerlKind::Word, false) => "0-9A-Za-z_",
        _ => outside(class),
    }
}

/// Repetitions of one part, RE2's limit.
const REPETITIONS: u32 = 1000;
/// Instructions for any character, of one to four bytes.
const DOT: u64 = 10;
/// Instructions for the characters of a script or a category, the large ones; counted double because of the time that
/// ignoring case takes with them.
const SCRIPT: u64 = 2_000;
