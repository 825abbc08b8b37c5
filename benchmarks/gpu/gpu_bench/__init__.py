"""How fast can a GPU run CLIP ViT-L/14's image tower, and how near to its limit?"""
