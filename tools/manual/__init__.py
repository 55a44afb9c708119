"""Man pages and completions, made of the command line's own parser, the one owner of what an option takes and does.

Our own generator, since the pages of argparse-manpage have headers that ``man -k`` does not know, nothing beyond
options, and a main page that repeats all others; and the completions of shtab know neither files nor values.
"""
