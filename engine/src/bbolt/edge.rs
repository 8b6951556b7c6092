//! The right edge of a written tree, opened again: from there it is carried on, or cut off and carried on.

use super::cursor::Cursor;
use super::file::BoltFile;
use super::page::{Holds, Page, PageKind, damaged};
use super::tree::{Child, Tree};
use crate::error::Result;

/// The tree of `cursor` up to and with its current entry. The pages of the path to it are to be written anew; what is
/// left of it stays where it is.
///
/// A branch of the path that would keep nothing to its left would end with a single child. It takes over the children
/// of its left neighbour, which is given up; where it has none, the tree becomes less deep.
///
/// # Errors
/// `Damaged` where a neighbour does not parse.
pub(super) fn open_edge<'a>(file: &BoltFile<'a>, cursor: &Cursor<'a>) -> Result<Tree> {
    let mut path: Vec<(Page<'a>, usize)> = cursor.path().collect();
    let Some((leaf, last)) = path.pop() else { return Ok(Tree::new(Holds::Values)) };
    let mut levels: Vec<Vec<Child>> = path.iter().rev().map(|(page, index)| children(page, *index)).collect();
    for height in 0..levels.len() {
        fill(file, &mut levels, height)?;
    }
    // An empty level has only empty ones above it now.
    levels.retain(|level| !level.is_empty());
    Tree::carry_on((0..=last).filter_map(|index| leaf.entry(index)), levels)
}

/// Gives the level at `height` children where it has none and there is anything to its left.
fn fill(file: &BoltFile<'_>, levels: &mut [Vec<Child>], height: usize) -> Result<()> {
    if !levels[height].is_empty() || height + 1 == levels.len() {
        return Ok(());
    }
    fill(file, levels, height + 1)?;
    let Some(neighbour) = levels[height + 1].pop() else { return Ok(()) };
    let page = file.page(neighbour.page, Holds::Values)?;
    if page.kind() != PageKind::Branch || page.count() == 0 {
        return Err(damaged(page.id(), "is no branch with children, as those beside it are"));
    }
    levels[height] = children(&page, page.count());
    Ok(())
}

/// The first `count` children of a branch.
fn children(page: &Page<'_>, count: usize) -> Vec<Child> {
    let child = |index| page.child(index).map(|(key, page)| Child { key: key.to_vec(), page });
    (0..count).filter_map(child).collect()
}
