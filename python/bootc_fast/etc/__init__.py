"""The three-way merge of /etc, on any three trees."""
