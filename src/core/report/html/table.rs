//! Tables. A long one is folded away on a screen, and whole on paper.

use super::writer::Writer;

/// As many rows stand open.
const OPEN_ROWS_MAX: usize = 16;

/// A table that is being written.
pub(super) struct Table<'w> {
    out: &'w mut Writer,
    caption: &'static str,
    heads: Vec<String>,
    rows: Vec<Vec<String>>,
}

impl<'w> Table<'w> {
    pub(super) fn new(out: &'w mut Writer, caption: &'static str, heads: &[&str]) -> Self {
        Table { out, caption, heads: heads.iter().map(|head| (*head).to_owned()).collect(), rows: Vec::new() }
    }

    pub(super) fn row(&mut self, cells: &[String]) {
        self.rows.push(cells.to_vec());
    }

    /// Writes it; nothing where it has no row.
    pub(super) fn end(self) {
        let Table { out, caption, heads, rows } = self;
        if rows.is_empty() {
            return;
        }
        let folded = rows.len() > OPEN_ROWS_MAX;
        if folded {
            out.raw("<details><summary>").raw(caption).raw(", as a table (").text(rows.len()).raw(" rows)</summary>");
        }
        out.raw("<div class=\"scroll\" tabindex=\"0\" role=\"region\" aria-label=\"").raw(caption);
        out.raw("\"><table><caption>").raw(caption).raw("</caption><thead><tr>");
        for head in &heads {
            out.element("<th scope=\"col\">", head, "</th>");
        }
        out.raw("</tr></thead><tbody>");
        for row in &rows {
            out.raw("<tr>");
            for (at, cell) in row.iter().enumerate() {
                match at {
                    0 => out.element("<th scope=\"row\">", cell, "</th>"),
                    _ => out.element("<td>", cell, "</td>"),
                };
            }
            out.raw("</tr>\n");
        }
        out.raw("</tbody></table></div>");
        if folded {
            out.raw("</details>");
        }
        out.raw("\n");
    }
}
