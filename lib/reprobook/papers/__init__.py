"""One module (or package) a paper, named by the chapter's slug. Papers never import one another."""
