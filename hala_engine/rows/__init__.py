"""Reading the rows of datasets: files, folders, saved and hub datasets, and finding their places
again."""
