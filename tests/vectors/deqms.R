# Writes deqms.json: moderated t-statistics whose prior variance follows the number of peptides (Zhu et al. 2020, Molecular & Cellular
# Proteomics 19:1047), in the steps of that paper with limma's linear models and R's loess, for tests/tl/test_de.py.
# Run after limma.R: Rscript deqms.R (Debian: r-bioc-limma 3.54, r-cran-jsonlite)
suppressMessages({library(limma); library(jsonlite)})
data <- fromJSON("limma.json")
set.seed(2)
count <- rpois(nrow(data$x), exp(runif(nrow(data$x), 0, 4))) + 1
obs <- data.frame(condition = factor(data$condition, levels = c("control", "case")), age = data$age, site = data$site)
answer <- function(x) {
  fit <- suppressWarnings(lmFit(x, model.matrix(~ condition + age + site, obs)))
  d <- fit$df.residual
  ok <- d > 0 & is.finite(fit$sigma)
  s2 <- pmax(fit$sigma^2, 1e-5 * median(fit$sigma[ok]^2))
  e <- (log(s2) - digamma(d / 2) + log(d / 2))[ok]
  by <- log2(count)
  curve <- loess(e ~ x, data.frame(e = e, x = by[ok]), span = 0.75)
  excess <- mean(residuals(curve)^2) - mean(trigamma(d[ok] / 2))
  d0 <- if (excess > 0) 2 * trigammaInverse(excess) else Inf
  s02 <- exp(fitted(curve) + if (is.finite(d0)) digamma(d0 / 2) - log(d0 / 2) else 0)
  post <- if (is.finite(d0)) (d0 * s02 + d[ok] * fit$sigma[ok]^2) / (d0 + d[ok]) else s02
  t <- rep(NA, length(d))
  t[ok] <- fit$coefficients[ok, 2] / fit$stdev.unscaled[ok, 2] / sqrt(post)
  df <- pmin(d + d0, sum(d[ok]))
  list(t = t, log10_p = (pt(abs(t), df, lower.tail = FALSE, log.p = TRUE) + log(2)) / log(10), df_prior = d0, ok = ok)
}
write(toJSON(list(count = count, plain = answer(data$x), missing = answer(data$holes)), auto_unbox = TRUE, digits = NA, na = "null"), "deqms.json")
