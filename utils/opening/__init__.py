"""From what a user names as a model to a model that can be trusted: every script and tool opens models through here.

`places` finds the folder, `files` looks at it before anything is loaded, `weights` loads and checks that nothing was
drawn at random, `tokenizers` opens the tokenizer and checks that it fits, `classes` sorts the classifier's rows.
"""
