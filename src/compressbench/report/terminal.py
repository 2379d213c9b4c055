def print_tables(r,c): pass
