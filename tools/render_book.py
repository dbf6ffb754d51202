"""The command ``jupyter-book``, started a second sooner; see :func:`reprobook.notebooks.spare_grammar`."""

from reprobook.notebooks import spare_grammar

spare_grammar()  # before jupyter-book imports what builds it

from jupyter_book.cli.main import main  # noqa: E402

if __name__ == "__main__":
    main(prog_name="jupyter-book")
