"""What is wrong with a data set: class tables, faulty images, duplicates and leaks."""
