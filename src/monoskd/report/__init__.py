"""Pages, tables and charts. They know words and numbers, and nothing of what these are about."""
