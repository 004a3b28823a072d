"""What a site's object is: its checks, columns, labels, units, values, and how sites are named and dealt out."""
